# `make help` lists the targets. Everything happens in .venv; nothing is installed elsewhere.
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
PACKAGES := -e . -e instrumentation -e exporter -e platform
# The other interpreters, where this machine has them; the first one runs `make test`.
PYTHONS := $(shell for v in 3.10 3.11 3.12 3.13; do \
	for p in "$$(command -v python$$v)" "$$HOME"/.pyenv/versions/$$v.*/bin/python; do \
	[ -n "$$p" ] && [ -x "$$p" ] && "$$p" -c '' 2>/dev/null && echo $$p && break; done; done)

.PHONY: help setup demo test test-pythons test-oldest test-vendors test-backends test-slow test-clients test-alone test-postgres test-stress browser lint types bench bench-clients bench-startup bench-fingerprint lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## the virtual environment, with everything in it

.venv/.ready: requirements/dev.txt pyproject.toml instrumentation/pyproject.toml exporter/pyproject.toml platform/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Egis needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv (about 1 GB, most of it the embedded ClickHouse engine)..."
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) 2>&1 | grep -v "^WARNING: Location" || true
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(PACKAGES)
	@touch $@

demo: setup ## run the platform and the example agents, and show who did what (ONCE=1: check and end)
	@$(BIN)/python examples/demo.py $(if $(ONCE),--once)

test: setup ## every test but the slow suites below
	@$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup ## fleets of processes, web servers and Celery workers, as programs of their own
	@$(BIN)/pytest -m slow

test-pythons: setup ## the SDK's tests on every other interpreter of this machine, Python 3.10 to 3.13
	@tests/matrix.sh pythons $(PYTHONS)

test-oldest: setup ## the SDK's tests on the oldest supported openai and OpenTelemetry
	@tests/matrix.sh oldest $(PYTHON)

test-vendors: setup ## other vendors' instrumentors, each in an environment of its own (slow the first time)
	@tests/otel/vendors.sh

test-backends: setup ## our spans in Arize Phoenix, in an environment of its own (600 MB)
	@tests/otel/backends.sh

test-alone: setup ## clients that the lock has no place for, in environments of their own
	@tests/instrumentation/alone.sh

test-clients: setup ## every client's tests on its oldest supported version, in environments of their own (slow)
	@tests/instrumentation/oldest.sh

test-postgres: setup ## the platform's metadata on PostgreSQL, where Debian's packages are
	@tests/platform/postgres.sh

test-stress: setup ## contexts, stressed for long: 5,000 drawn programs
	@STRESS_EXAMPLES=5000 $(BIN)/pytest -q tests/stress

browser: ## Chromium and its driver, for the dashboard's browser tests (Debian, as root)
	@command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; }

lint: setup ## ruff, check and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup ## pyright, strict on the four packages
	@$(BIN)/pyright

bench: setup ## cost of an attributed call, of contexts and pools, beside peers
	@$(BIN)/python benchmarks/calls.py
	@$(BIN)/python benchmarks/context.py

bench-clients: setup ## cost of a call and of a chunk, of every client, beside peers (environments of their own)
	@$(BIN)/python benchmarks/clients.py

bench-startup: setup ## what init() adds to a program's start, beside a peer
	@$(BIN)/python benchmarks/startup.py

bench-fingerprint: setup ## precision, recall and cost of the prompt fingerprint
	@$(BIN)/python benchmarks/fingerprint.py

lock: setup ## resolve requirements/*.txt anew
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-emit-index-url --no-header \
		--prerelease=if-necessary-or-explicit --no-annotate --all-extras --group dev \
		$(foreach p,egisai egisai-instrumentation egisai-exporter egisai-platform,--no-emit-package $(p)) \
		pyproject.toml instrumentation/pyproject.toml exporter/pyproject.toml platform/pyproject.toml -o requirements/dev.txt

clean: ## remove everything that the other targets made
	@rm -rf .venv .venv-* .demo build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
