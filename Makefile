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

# A copy of the tree whose hot modules are compiled (setup.py): what an installation is made of, and what lab and
# bench run. Without Python's headers or a C compiler they run the source instead, and say so.
TREE := build/compiled
SOURCES := setup.py tests/compiled.sh $(shell find sbc signaling media nat config tests -name '*.py' -o -name '*.c')
IN_TREE = cd $(TREE) && $(abspath $(BIN))/python

LAB = $(patsubst %,tests/lab/test_%.py,$(1))
PHONES := $(call LAB,homes registration_lab diagnosis stun carrier tcp_phones phone_features challenging_pbx)
CALLS := $(call LAB,calls turn)

.PHONY: help run test check bench lab load install packages compiled clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## Place a call through an SBC on loopback and keep serving; ONCE=1: stop after the call
	$(BIN)/sbc demo $(if $(filter-out 0,$(ONCE)),--once)

test: $(READY) packages ## All tests, about 15 minutes; a part: make test ARGS="tests/sbc -m 'not slow'"
ifneq ($(ARGS),)
	$(PYTEST) $(ARGS)
else
	@# The source is tested while the copy is compiled beside it, then the compiled program, in the lab and by the contract of
	@# relays, three tests at a time: they wait for packets most of the time.
	@mkdir -p build; nice $(MAKE) --no-print-directory compiled >build/compile.log 2>&1 & compiling=$$!; \
	status=0; $(PYTEST) -m "not lab" || status=$$?; wait $$compiling || status=$$?; cat build/compile.log; exit $$status
	@($(IN_TREE) -m pytest $(PHONES) -m "not source") >build/phones.log 2>&1 & phones=$$!; status=0; \
	(($(IN_TREE) -m pytest tests/contract -m "not source and not slow") && \
	($(IN_TREE) -m pytest tests/scenario $(CALLS) -m "not source")) >build/calls.log 2>&1 & calls=$$!; \
	($(IN_TREE) -m pytest tests/lab $(PHONES:%=--ignore=%) $(CALLS:%=--ignore=%) -m "not source") || status=$$?; \
	wait $$phones || status=$$?; wait $$calls || status=$$?; cat build/phones.log build/calls.log; exit $$status
endif

check: $(READY) packages ## Lint, format, types, import contracts, the C of the kernel program and of the bench
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@tests/lab/lint_native.sh $(BIN)/python

lab: $(READY) packages compiled ## SIPp and baresip calls through network namespaces, a part of test; needs root
	$(IN_TREE) -m pytest tests/lab -m lab $(ARGS)

load: $(READY) packages compiled ## 20,000 calls at 200/s, then pools of exactly enough ports and of too few; needs root
	$(IN_TREE) -m tests.lab.load $(ARGS)

bench: $(READY) packages compiled ## CPU and memory of ours beside Kamailio and rtpengine, same scenarios, same run
	export SBC_README=$(CURDIR)/README.md; $(IN_TREE) -m tests.bench $(ARGS)

install: ## Install into a virtual environment of its own: make install PREFIX=/opt/sbc
	@tests/lab/install.sh $(PREFIX)

packages: ## Install what lab and bench drive: SIPp, baresip, Kamailio, rtpengine, tshark (as root)
	@tests/lab/packages.sh

compiled: $(READY) packages
	@$(MAKE) --no-print-directory $(TREE)/.ready

clean: ## Remove what the targets above made
	rm -rf $(VENV) *.egg-info build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Made anew when the dependencies change; a half-made environment has no stamp and is made again.
$(READY): pyproject.toml tests/lab/environment.sh
	@tests/lab/environment.sh $(VENV)
	@touch $@

$(TREE)/.ready: $(SOURCES)
	@tests/compiled.sh $(BIN)/python $(TREE)
	@touch $@
