# Every target sets up what it needs; a fresh machine needs Python 3.10+, a C++17 compiler and make.
# With nvcc on the PATH the CUDA kernels are built as well (DTK_CUDA=OFF leaves them out).

PYTHON ?= python3
VENV   ?= .venv
# Pinned, so that a machine without a GPU can be given torch's CPU build first.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

.PHONY: help env test lint format demo study study-full study-data docs bench bench-operators gpu-check clean

help:
	@echo "make test       set up, build, run every test"
	@echo "make demo       train a small network with Dice + Hausdorff loss on real MRI; tables and pictures"
	@echo "make study      the papers on distance maps in miniature on real MRI, two cores, half an hour; a report"
	@echo "make study-full every experiment of the study, on a GPU where there is one"
	@echo "make docs       guides and reference into build/docs"
	@echo "make bench      the tables of the README and the pages, against every peer; FULL=1: all sizes"
	@echo "make bench-operators  each operator by itself, timed by pytest-benchmark"
	@echo "make gpu-check  on a machine with a GPU: build, tests, sanitizers, benchmarks, one result file"
	@echo "make lint       formatters and type checker, without changing files"
	@echo "make format     the formatters, changing files"
	@echo "make env        only the environment and the build, after a change of C++"
	@echo "make clean      removes the environment, builds and caches"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"

# The package, editable: Python changes are live, compiled ones after the next `make env`.
env: $(BIN)/python
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "pybind11>=2.13" ninja "cmake>=3.24"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"

test: env
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -q --benchmark-disable bench/test_operators.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files 'csrc/*' 'tests/emulator/*' | grep -E '\.(h|cuh|cpp|cu)$$')

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell git ls-files 'csrc/*' 'tests/emulator/*' | grep -E '\.(h|cuh|cpp|cu)$$')

demo: env
	$(BIN)/python -m bench.demo

# Interrupted, both go on where they stopped: a run whose result file stands is skipped.
study: env study-data
	$(BIN)/python -m bench.study run

study-full: env study-data
	$(BIN)/python -m bench.study run --full --results study-full-output

study-data: env
	$(BIN)/dtk data hippocampus

docs: env
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html dtkernels/docs build/docs
	@echo "build/docs/index.html"

# A requirement that does not hold shows in the exit status; the tables are written all the same.
bench: env
	status=0; \
	$(BIN)/python -m bench $(if $(FULL),,--quick) --save || status=$$?; \
	$(BIN)/python -m bench.training $(if $(FULL),,--steps 20) --save || status=$$?; \
	$(BIN)/python -m bench.tables || status=$$?; exit $$status

bench-operators: env
	$(BIN)/python -m pytest -q bench/test_operators.py

# Uses the Python it is given and nothing from a network: torch, pytest and the build tools must be there.
gpu-check:
	$(PYTHON) -m bench.gpu_check

clean:
	rm -rf build dist $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
