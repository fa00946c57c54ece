# Everything a contributor types. Each target makes what it needs: a virtual environment in .venv, and for the
# tests the Debian packages that they drive (only as root; otherwise they say what to install and are skipped).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST = $(BIN)/python -m pytest

# Where Debian keeps daemons and the tools of root.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help run test check bench lab load packages clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## Place a call through an SBC on loopback and keep serving; ONCE=1: stop after the call
	$(BIN)/sbc demo $(if $(filter-out 0,$(ONCE)),--once)

test: $(READY) packages ## All tests, about ten minutes; a part: make test ARGS="tests/sbc -m 'not slow'"
	$(PYTEST) $(ARGS)

check: $(READY) ## Lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(READY) packages ## SIPp and baresip calls through network namespaces, a part of test; needs root
	$(PYTEST) tests/lab -m lab $(ARGS)

load: $(READY) packages ## 20,000 calls at 200/s, then pools of exactly enough ports and of too few; needs root
	$(BIN)/python -m tests.lab.load $(ARGS)

bench: $(READY) packages ## CPU and memory of ours beside Kamailio and rtpengine, same scenarios, same run
	$(BIN)/python -m tests.bench $(ARGS)

packages: ## Install what lab and bench drive: SIPp, baresip, Kamailio, rtpengine, tshark (as root)
	@tests/lab/packages.sh

clean: ## Remove what the targets above made
	rm -rf $(VENV) *.egg-info build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Made anew when the dependencies change; a half-made environment has no stamp and is made again.
$(READY): pyproject.toml tests/lab/environment.sh
	@tests/lab/environment.sh $(VENV)
	@touch $@
