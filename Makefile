# pedsup: `make help` lists what can be made.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DELETE_ON_ERROR:

# Packages are installed without bytecode, which their first import writes. Where an image switches
# that off, every program would compile all that it imports: 22 s instead of 7 for torch and PEFT.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help:  ## this list
	@awk -F':.*## ' '/^[a-z][a-zA-Z_-]*:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up -------------------------------------------------------------------------------
# A CPU build of torch is asked for by exact version first, because plain `torch` on PyPI may
# bring several gigabytes of CUDA packages; set TORCH= to keep the torch you have.
TORCH ?= torch==2.13.0

# Everything else comes by exact version and SHA-256 from tests/lock.txt; LOCK= installs without
# hashes, by the versions of tests/constraints.txt alone (another Python, another platform).
LOCK ?= tests/lock.txt
EXTRAS := export vocabulary train bench sign test dist

# llama-cpp-python comes first, built with options of its own: whatever the environment holds, it
# has this processor's vector units (tools/pedsup_tools/llama_cpp.py). Bytecode is left to the first
# import (--no-compile): compiling every module is most of what an installation costs.
.PHONY: setup lock
setup: $(VENV)/.installed  ## virtual environment with everything the default export needs

$(VENV)/.installed: pyproject.toml tests/constraints.txt tests/lock.txt tools/pedsup_tools/llama_cpp.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONPATH=runtime:tools $(BIN)/python -m pedsup_tools.llama_cpp $(LOCK)
ifneq ($(LOCK),)
	$(BIN)/pip install --quiet --no-compile --no-deps --require-hashes -r $(LOCK)
	$(BIN)/pip install --quiet --no-compile $(if $(TORCH),--no-deps $(TORCH),torch)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
else
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH),)
	$(BIN)/pip install --quiet -c tests/constraints.txt -e '.[$(subst $() ,$(comma),$(EXTRAS))]'
endif
	$(BIN)/pip check
	touch $@

comma := ,

# libmtmd is left out of the set-up: compiling it takes half as long as all the rest of llama.cpp.
PROGRAMS := PYTHONPATH=tools $(BIN)/python -m pedsup_tools.llama_cpp_programs

.PHONY: pictures
pictures: setup  ## photos in `pedsup-run`'s own process: llama.cpp's library for them (once, 2 minutes)
	$(PROGRAMS) pictures

lock:  ## tests/lock.txt anew, after a change of pyproject.toml or tests/constraints.txt
	$(PYTHON) -m venv .build/lock
	.build/lock/bin/pip install --quiet uv
	.build/lock/bin/uv pip compile --quiet --universal --prerelease disallow --python-version 3.11 --generate-hashes \
	  $(addprefix --extra ,$(EXTRAS)) -c tests/constraints.txt --override tests/lock-overrides.txt \
	  --no-emit-package torch --custom-compile-command 'make lock' \
	  pyproject.toml tests/lock.in -o tests/lock.txt

# ---- the main job -------------------------------------------------------------------------
# make gguf                                  the embedded default: SmolLM2 and a small adapter, calibrated
# make gguf BASE=... ADAPTER=... QUANT=...   your own: folders or hub ids; OUT= names the file
# make gguf ... LANGUAGES=es,en              a vocabulary cut to these (docs/vocabulary.md)
# make gguf ... PHONE=galaxy-a15             the type that suits this phone, instead of QUANT=
# Values reach the command as they were typed, by the environment: $(value) keeps what Make would
# expand (a `$` in a path), and no shell reads them. What is up to date is decided there by contents.
GGUF_VARIABLES := BASE ADAPTER QUANT PHONE OUT LANGUAGES VOCABULARY EXPORT_OPTIONS GATE \
  CALIBRATE CALIBRATION_TEXT BUDGET MMPROJ SIGN_KEY SIGN_OPTIONS MODEL PATCH DEBS BUNDLE
$(foreach name,$(GGUF_VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(GGUF_VARIABLES)
MAKE_GGUF := PYTHONPATH=tools $(BIN)/python -m pedsup_tools.gguf
DEFAULT_BASE := out/smollm2-base

# GATE=1: the quality gate, which needs the same merge in 16 bits; always for the default.
# SIGN_KEY=my.key signs the file (docs/signing.md); SIGN_OPTIONS=--passphrase-file... for scripts.
# CALIBRATE=1 rounds with error feedback by statistics of that merge (docs/calibration.md), as the
# default does unless CALIBRATE=0;
# CALIBRATION_TEXT=FILE names the text, BUDGET=Q4_K_M (3.5GB, 4.5bpw) chooses types by them.
# MMPROJ=off leaves the projector out, with which Gemma 4 and MedGemma see (auto, the default: written
# beside the model where the base has towers).
# EXPORT_OPTIONS= takes any other option of `pedsup-export run`.
.PHONY: gguf
gguf: $(VENV)/.installed  ## a phone-ready file (BASE= ADAPTER= QUANT= or PHONE=, OUT= SIGN_KEY= for your own)
	$(MAKE_GGUF) gguf

$(DEFAULT_BASE)/config.json: | $(VENV)/.installed
	$(MAKE_GGUF) base

# ---- the phone ----------------------------------------------------------------------------
# make phone-bundle MODEL=... DEBS=...    a folder for the SD card: program, model, checksums
# make phone-bundle PATCH=v0.3.patch      the same with a patch for the model on the phone
# make phone-bundle ADAPTER=v0.3.gguf     the same with an adapter file for the base on the phone
.PHONY: phone-bundle phone-test
phone-bundle: setup  ## the folder that installs everything in Termux (MODEL=, PATCH= or ADAPTER=, DEBS= BUNDLE=)
	$(MAKE_GGUF) phone-bundle

phone-test: setup  ## installs and runs it on an emulated arm64 machine (Debian, root, 30 minutes)
	$(BIN)/python tests/phone/run.py

# ---- training -----------------------------------------------------------------------------
RECIPE ?= v0.1
TRAIN_OUT ?= out/adapter-$(RECIPE)
TRAIN_OPTIONS ?=

.PHONY: train train-gpu-record
train: setup  ## an adapter by a recipe (RECIPE= TRAIN_OUT= TRAIN_OPTIONS=; BASE= overrides its base)
	$(BIN)/pedsup-train run --recipe $(RECIPE) $(if $(BASE),--base "$$BASE") --out '$(TRAIN_OUT)' \
	  $(TRAIN_OPTIONS)

train-gpu-record: $(DEFAULT_BASE)/config.json  ## steps/s, tokens/s and memory of training on this GPU
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.training.gpu_record --smollm2-base $(DEFAULT_BASE) --out out/gpu-record

# ---- measuring ----------------------------------------------------------------------------
BENCH_SIZE ?= 2GB

.PHONY: bench bench-export bench-kernels types-table comparison frontier benchmark
bench: setup  ## speed and memory of the file here (OUT= for another file)
	$(MAKE_GGUF) bench

bench-export: setup native  ## our export beside PEFT + converter + llama-quantize (BENCH_SIZE=15GB)
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.exporting.peer --size $(BENCH_SIZE)

bench-kernels: setup  ## quantizer speed beside ggml's
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.kernels

types-table: $(DEFAULT_BASE)/config.json  ## docs/quantization-types.md and its plot: size, KL, flips, speed
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.types_table --base '$(DEFAULT_BASE)' --folder out/types \
	  --markdown docs/quantization-types.md --plot docs/quantization-types.svg

# FRONTIER_TEXTS= names the texts: --calibrate-on FILE (repeatable), --judge-on NAME=FILE (repeatable);
# without it the shipped dialogues and the shipped prose. The base must be in 16 bits: for figures that
# mean something a trained model of some size, and texts of some length.
FRONTIER_BASE ?= $(or $(BASE),$(DEFAULT_BASE))
FRONTIER_TEXTS ?=
FRONTIER_NAME ?= frontier

frontier: setup native $(if $(BASE),,$(DEFAULT_BASE)/config.json)  ## size against KL, ours and llama.cpp's files (BASE= FRONTIER_TEXTS=)
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.frontier --base '$(FRONTIER_BASE)' \
	  --folder out/$(FRONTIER_NAME) $(FRONTIER_TEXTS) --out out/$(FRONTIER_NAME)/result.json \
	  --markdown out/$(FRONTIER_NAME)/table.md --plot out/$(FRONTIER_NAME)/plot.svg

comparison: setup  ## docs/comparison.md: MedGemma 1.5 4B beside Gemma 4 on the phone profiles
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.comparison

benchmark: setup native  ## the latency regression suite (pytest --benchmark)
	$(BIN)/pytest --benchmark -q

# ---- quality ------------------------------------------------------------------------------
# Two workers on two cores: the oracles (transformers, llama.cpp) are single-threaded for the most.
WORKERS ?= 2
# torch's threads spin between the small matrices of the tests: three times the processor time.
# The longest files come first (tests/conftest.py), so that no worker ends alone with one of them.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: option-tables lint test test-all source native browser check coverage
option-tables:  ## the tables of options in docs/, from where the options are declared
	PYTHONPATH=tools $(BIN)/python -m pedsup_tools.option_tables

lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

source: setup  ## llama.cpp's source, where the official converter lives: nothing is compiled
	$(PROGRAMS) source

native: setup  ## llama.cpp's own programs, the oracle of the tests (once, then cached)
	$(PROGRAMS) programs

AXE := PYTHONPATH=runtime:tests/lib $(BIN)/python -m pedsup_testing.axe

browser: $(VENV)/.installed  ## Chromium, axe-core and other programs that tests use, on Debian as root
	@if (for program in chromium chromedriver npm strace shellcheck busybox openssl gcc; do \
	  command -v $$program >/dev/null || exit 1; done); then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends chromium chromium-driver npm strace shellcheck busybox openssl gcc \
	    >/dev/null || echo "Chromium and other programs of the tests could not be installed" >&2; \
	else echo "Chromium, strace or others are not here: tests that use them are skipped" >&2; fi
	@$(AXE)

test: source  ## the fast tests; those that need llama.cpp's programs are skipped without `make native`
	$(TESTS)

test-all: setup native  ## every test but the huge ones
	$(TESTS) --slow

ALONE := --ignore tests/bench/test_latency_suite.py

check: lint native browser  ## what CI runs: lint, types, all tests; no skip but for a known reason
	# The latency suite judges times: alone, and first, while the machine is quiet.
	$(BIN)/pytest -q --slow --strict-skips tests/bench/test_latency_suite.py
	$(TESTS) --slow --strict-skips $(ALONE)

# Tracing makes Python up to five times as slow, and no figure of it decides anything: not in CI.
coverage: setup native  ## branch coverage of all tests, children included (an hour)
	$(TESTS) --slow $(ALONE) --cov --cov-report=term:skip-covered

FUZZ_RUNS ?= 100000

.PHONY: fuzz
fuzz: setup  ## fuzz every reader with atheris (FUZZ_RUNS= inputs each); not part of CI
	$(BIN)/pip install --quiet atheris==3.0.0
	set -e; for target in gguf safetensors manifest transcript adapter picture; do \
	  $(BIN)/python tests/fuzz/fuzz_readers.py $$target -runs=$(FUZZ_RUNS); done

# ---- supply chain -------------------------------------------------------------------------
# Two builds of one commit give one digest: times come from the commit, modes are set by hatchling,
# the build tools from tests/lock.txt. For this recipe alone: compilers change what they build by
# SOURCE_DATE_EPOCH, and ggml's leaves out all vector units.
DIST_EPOCH = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600))

.PHONY: audit dist
audit: setup  ## dependencies: fit together, as locked, licences, known vulnerabilities (offline)
	PYTHONPATH=tools $(BIN)/python -m pedsup_tools.audit

dist: setup  ## wheel and sdist with an SBOM (CycloneDX) and SHA-256 sums, in dist/
	rm -rf dist
	SOURCE_DATE_EPOCH=$(DIST_EPOCH) $(BIN)/python -m build --no-isolation --outdir dist .
	SOURCE_DATE_EPOCH=$(DIST_EPOCH) PYTHONPATH=tools $(BIN)/python -m pedsup_tools.sbom \
	  "$$(ls dist/*.whl | sed 's/-py3-none-any.whl$$/.cdx.json/')"
	cd dist && sha256sum *.whl *.tar.gz *.cdx.json > SHA256SUMS

.PHONY: clean
clean:  ## remove what was built here (not the virtual environment)
	rm -rf out .build dist
