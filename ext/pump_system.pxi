# What the pump needs of the system: sockets, epoll, threads.  Included by _c_pump.pyx.

from libc.stdint cimport uint32_t

# C makes each access to these a sequentially consistent one.
cdef extern from "stdatomic.h" nogil:
    ctypedef int atomic_int
    ctypedef unsigned long long atomic_ullong

cdef extern from "errno.h" nogil:
    int errno
    int EAGAIN, EINTR, ENOMEM

cdef extern from "unistd.h" nogil:
    int close(int fd)
    int getpid()

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *parts, int count)

cdef extern from "sys/socket.h" nogil:
    int MSG_NOSIGNAL, MSG_DONTWAIT, SOL_SOCKET, SO_ERROR
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size)

cdef extern from "sys/eventfd.h" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, EPOLLERR, EPOLLHUP, EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    int pthread_join(pthread_t thread, void **value)
    int pthread_mutex_init(pthread_mutex_t *lock, const pthread_mutexattr_t *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *lock)
    int pthread_mutex_lock(pthread_mutex_t *lock)
    int pthread_mutex_unlock(pthread_mutex_t *lock)

cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>

    /* A thread that no signal goes to: they are all for Python's own. */
    static int start_thread(pthread_t *thread, void *(*run)(void *), void *argument)
    {
        sigset_t all, before;
        int failed;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        failed = pthread_create(thread, NULL, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return failed;
    }
    """
    int start_thread(pthread_t *thread, void *(*run)(void *) noexcept nogil, void *argument) nogil
