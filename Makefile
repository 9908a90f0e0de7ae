# Everything sets up its own .venv. `make demo TORCH_INDEX=<index url>` chooses torch's build (CPU, CUDA).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= 2.13.0
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: help demo test test-long check bench bench-small bench-long format clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "peftbench needs Python 3.11 or newer; set PYTHON=<path>"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==$(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev,quantised]"
	@touch $@

demo: .venv/ready ## SoRA on sample MRPC with a real pretrained MiniLM, about two minutes
	$(BIN)/peftbench method=sora task=mrpc data=sample experiment_name=demo

test: .venv/ready ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-long: .venv/ready ## kills of every method, many processes, fuzzing at length
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long

check: .venv/ready ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/ready ## ratios of time and memory on this machine, within ten minutes (PEFTBENCH_DATA: real data)
	$(BIN)/python scripts/bench.py

bench-small: .venv/ready ## the same in small, as CI runs it
	$(BIN)/python scripts/bench.py --size small --only steps epochs startup

bench-long: .venv/ready ## whole epochs of four tasks with three seeds, a hundred texts; an hour
	$(BIN)/python scripts/bench.py --size long

format: .venv/ready ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## forget the environment and caches
	rm -rf .venv build dist .pytest_cache .ruff_cache
