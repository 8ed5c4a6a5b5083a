# pedsup: `make help` lists what can be made.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DELETE_ON_ERROR:

.PHONY: help
help:  ## this list
	@awk -F':.*## ' '/^[a-z][a-zA-Z_-]*:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up -------------------------------------------------------------------------------
# A CPU build of torch is asked for by exact version first, because plain `torch` on PyPI may
# bring several gigabytes of CUDA packages; set TORCH= to keep the torch you have.
TORCH ?= torch==2.13.0

.PHONY: setup
setup: $(VENV)/.installed  ## virtual environment with everything the default export needs

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH),)
	$(BIN)/pip install --quiet -e '.[export,train,bench,test]'
	touch $@

# ---- quality ------------------------------------------------------------------------------
.PHONY: lint test test-all native check
lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

native: setup  ## llama.cpp's own programs, the oracle of the tests (once, then cached)
	$(BIN)/python tests/lib/pedsup_testing/native.py

test: setup  ## the fast tests
	$(BIN)/pytest -q

test-all: setup native  ## every test but the huge ones
	$(BIN)/pytest -q --slow

check: lint native  ## what CI runs: lint, types, all tests with branch coverage
	$(BIN)/pytest -q --slow --cov --cov-report=term:skip-covered

.PHONY: clean
clean:  ## remove what was built here (not the virtual environment)
	rm -rf out .build dist
