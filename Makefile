# Everything a newcomer needs: `make demo` shows the main job, `make test` tests it.
# On Debian, as root, missing system packages are installed first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard ext/*)

# What building and the demo need beyond Python, make and git.
APT := python3-venv python3-dev gcc libc6-dev libssl-dev iptables iproute2 tcpdump curl nodejs \
       openssl ca-certificates clang libbpf-dev

# What makes the Debian package.
APT_DEB := chrpath debhelper dpkg-dev

# Programs that the tests run as they are, and that nothing else needs.
APT_TEST := nginx-light postgresql openssh-server openssh-client iperf3 redis-server \
            systemd groff-base man-db nftables valgrind tshark debootstrap fish zsh \
            $(APT_DEB)

# Programs that the benchmark of whole chains sets beside this one.
APT_BENCH := stunnel4 spiped openssh-server openssh-client openssl rsync

.PHONY: build docs deps deps-test deps-bench deps-deb demo deb test test-long bench bench-planes bench-all lint vectors clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

build: $(VENV)/.built ## make .venv/ with everything in it

$(VENV)/.built: $(SOURCES) | deps
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet 'setuptools>=77' 'cython>=3.1'
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@$(BIN)/python -c 'import tcpcrypt._fast as f; print("built: tcpcrypt, hot path in", f.IMPLEMENTATION)'
	@touch $@

# Asked by maintainer scripts before they start a service: "no".
POLICY := /usr/sbin/policy-rc.d

# Install those of $(1) that are missing.  Servers are wanted as programs only:
# none is to run on this machine, now (while policy-rc.d says 101, RUNLEVEL is
# that of a single user and systemd counts as absent) or after the next boot
# (what came new is disabled).  A policy-rc.d that was there comes back.
define install
	@missing=$$(for p in $(1); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -z "$$missing" ]; then :; \
	elif ! command -v dpkg-query >/dev/null; then \
	    echo "not a Debian system; you need the equivalents of: $(1)"; \
	elif [ "$$(id -u)" = 0 ]; then \
	    echo "installing:" $$missing; \
	    before=$$(ls /etc/init.d); kept=$$(mktemp -d); \
	    test ! -e $(POLICY) || mv $(POLICY) $$kept/; \
	    trap "rm -f $(POLICY); test ! -e $$kept/policy-rc.d || mv $$kept/policy-rc.d $(POLICY); rmdir $$kept" EXIT; \
	    trap 'exit 1' INT TERM HUP; \
	    printf '#!/bin/sh\nexit 101\n' >$(POLICY) && chmod 755 $(POLICY); \
	    export RUNLEVEL=1 SYSTEMD_OFFLINE=1 DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit 1; \
	    for s in $$(ls /etc/init.d); do \
	        echo "$$before" | grep -qx $$s || update-rc.d $$s disable 2>/dev/null || :; done; \
	else \
	    echo "missing system packages; as root: apt-get install" $$missing; \
	fi
endef

deps:
	$(call install,$(APT))

deps-test: deps
	$(call install,$(APT_TEST))

deps-bench: deps
	$(call install,$(APT_BENCH))

deps-deb: deps
	$(call install,$(APT_DEB))

deb: deps-deb build ## dist/tcpcrypt_VERSION_ARCH.deb, with all that it needs of Python
	$(BIN)/python packaging/deb/build.py

demo: build ## two hosts, curl and an HTTP server, encrypted in between
	$(BIN)/tcpcrypt demo

test: deps-test build ## all tests: both twins, types, lint, import contract, namespaces
	$(BIN)/tox run-parallel --parallel 3 --parallel-no-spinner -e c,pure,lint,docs
	$(BIN)/tox run-parallel --parallel 2 --parallel-no-spinner --parallel-live -e netns,fuzz

test-long: deps-test build ## what takes longer: soaks and deep random testing
	TCPCRYPT_TEST_PROFILE=long $(BIN)/tox run -e long

bench: build ## throughput of the hot path beside libcrypto's own
	$(BIN)/pytest bench --benchmark-only

bench-planes: deps-bench build ## whole chains beside stunnel, spiped, ssh: docs/performance.md, half an hour
	$(BIN)/python bench/document.py --measure planes

bench-all: deps-bench build ## all figures and pictures of docs/performance.md anew; the machine to be quiet
	$(BIN)/python bench/document.py --measure all

docs: build ## the documentation site, in build/site
	$(BIN)/tox run -e docs

lint: build ## style, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

vectors: build ## recompute every published vector, by us and by the independent verifier
	$(BIN)/tcpcrypt vectors verify vectors/*.json vectors/peers/*.json
	node vectors/verify.mjs vectors/rfc8548-*.json vectors/peers/rfc8548-*.json
	node vectors/verify_eno.mjs vectors/eno-parse.json

clean: ## remove everything built
	rm -rf $(VENV) .tox build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f tcpcrypt/_fast/*.so tcpcrypt/runtime/*.bpf.o ext/_c_*.c .coverage*
