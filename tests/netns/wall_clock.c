/* Preloaded by tests: a wall clock that is off by as many seconds as a file says.

   Time namespaces move the clocks that count from the start of the machine, and not
   this one, and to set it would set everybody's.  The file is mapped, so that it
   counts in processes that may open nothing any more. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("TEST_WALL_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *seen = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);

	real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	if (seen == MAP_FAILED || !real)
		abort();
	close(fd);
	ahead = seen;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = real(clock, now);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *ahead;
	return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
	struct timespec exact;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &exact);
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *where)
{
	struct timespec exact;

	clock_gettime(CLOCK_REALTIME, &exact);
	if (where)
		*where = exact.tv_sec;
	return exact.tv_sec;
}
