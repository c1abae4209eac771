# Everything a newcomer needs: `make demo` shows the main job, `make test` tests it.
# On Debian, as root, missing system packages are installed first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard ext/*)

# What building and testing need beyond Python, make and git.
APT := python3-venv python3-dev gcc libc6-dev libssl-dev iptables iproute2 tcpdump curl nodejs \
       openssl ca-certificates

.PHONY: build deps demo test test-long bench lint vectors clean help

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

deps:
	@missing=$$(for p in $(APT); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -z "$$missing" ]; then :; \
	elif ! command -v dpkg-query >/dev/null; then \
	    echo "not a Debian system; you need the equivalents of: $(APT)"; \
	elif [ "$$(id -u)" = 0 ]; then \
	    echo "installing:" $$missing; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "missing system packages; as root: apt-get install" $$missing; \
	fi

demo: build ## two hosts, curl and an HTTP server, encrypted in between
	$(BIN)/tcpcrypt demo

test: build ## all tests: both twins, types, lint, import contract, namespaces
	$(BIN)/tox run

test-long: build ## what takes longer: soaks and deep random testing
	TCPCRYPT_TEST_PROFILE=long $(BIN)/tox run -e long

bench: build ## throughput of the hot path beside libcrypto's own
	$(BIN)/pytest bench --benchmark-only

lint: build ## style, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

vectors: build ## recompute every published vector, by us and by the independent verifier
	$(BIN)/tcpcrypt vectors verify vectors/*.json vectors/peers/*.json
	node vectors/verify.mjs vectors/rfc8548-*.json vectors/peers/rfc8548-*.json
	node vectors/verify_eno.mjs vectors/eno-parse.json

clean: ## remove everything built
	rm -rf $(VENV) .tox build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f tcpcrypt/_fast/*.so ext/*.c .coverage*
