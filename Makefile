# imcil: everything starts here. Needs Python 3.11 to 3.13, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
OUT ?= results/quick
JOBS ?= auto

.PHONY: help setup browser bench paper test test-all test-engines perf lint readme reference lock clean

help:            ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp  ## install imcil and its locked dependencies into .venv

$(VENV)/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "imcil needs Python 3.11, 3.12 or 3.13; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	UV_COMPILE_BYTECODE=1 $(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

bench: setup     ## the default comparison: ten methods, two protocols, three seeds (about 10 minutes on 2 cores)
	$(BIN)/imcil sweep quick --out $(OUT) --jobs $(JOBS)

paper: setup     ## the runs behind the figures of the papers, then all figures (90 minutes on 2 cores; ROOT=place of CIFAR-100)
	$(BIN)/imcil sweep paper_figures --out results/paper_figures --jobs $(JOBS) $(if $(ROOT),dataset.root=$(ROOT))
	$(BIN)/imcil sweep paper_figures_parts --out results/paper_figures --jobs $(JOBS) $(if $(ROOT),dataset.root=$(ROOT))
	$(BIN)/imcil sweep paper_figures_online --jobs $(JOBS) $(if $(ROOT),dataset.root=$(ROOT))
	$(BIN)/imcil figures results/paper_figures

test: setup      ## the test suite (under 20 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not engines"

browser:         ## Debian's chromium for the tests of the report, where apt-get may install it; they are skipped without
	@command -v chromedriver >/dev/null || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "no chromium: the report is not tested in a browser" >&2

test-all: setup browser  ## the test suite with its long checks, and the report in a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not engines"

test-engines: setup  ## the engines on a real SLURM and a real Ray cluster, which it installs (apt-get) and starts here
	tests/engines/install.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v tests/engines tests/sweeps/test_engines.py

perf: setup      ## speed against a bare PyTorch loop, written to results/perf
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmark.perf

lint: setup      ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

readme: setup    ## regenerate the tables of README.md and results/README.md
	$(BIN)/python -m benchmark.pages

reference: setup ## export the finished runs of results/SWEEP to results/reference/SWEEP, for committing
	$(BIN)/python -m benchmark.storage.archive results/$(SWEEP)
	$(BIN)/imcil table results/reference/$(SWEEP)
	$(BIN)/imcil figures results/reference/$(SWEEP)

lock:            ## renew requirements.lock
	$(UV) pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --overrides overrides.txt -o requirements.lock

clean:           ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
