# Everything sets up its own .venv. `make demo TORCH_INDEX=<index url>` chooses torch's build (CPU, CUDA).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= 2.13.0
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: help demo test test-long matrix check audit bench bench-small bench-long format clean

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
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long
	OMP_NUM_THREADS=1 PEFTBENCH_FUZZ=20 $(BIN)/python -m pytest -n 0 --hypothesis-show-statistics tests/test_fuzz.py

# A machine that runs them by a timetable takes these; the fast tests run on constraints.txt alone.
OLDEST := transformers==5.20.0 peft==0.21.2
MATRIX := tests/backbones tests/contracts tests/layers tests/methods tests/parity tests/training tests/test_experiment.py

# What transformers warns of is an error, but for the names that HF PEFT and the tests themselves use.
DEPRECATED := -W error::DeprecationWarning -W error::FutureWarning \
	-W 'ignore:`is_gradient_checkpointing` is deprecated:FutureWarning' \
	-W 'ignore:`past_key_values` is deprecated:FutureWarning'

.venv-%/ready: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --upgrade "pip>=24"
	.venv-$*/bin/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==$(TORCH)
	.venv-$*/bin/pip install --quiet --editable ".[demo,dev,quantised]" $(if $(filter oldest,$*),$(OLDEST))
	@touch $@

matrix: .venv-oldest/ready .venv-newest/ready ## the oldest and the newest transformers and peft; on the newest nothing deprecated
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 -m '' $(MATRIX)
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 -m '' $(DEPRECATED) $(MATRIX)

.venv-audit/ready:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet "pip-audit>=2.9,<3"
	@touch $@

audit: .venv-audit/ready ## known vulnerabilities of the pinned dependencies
	.venv-audit/bin/python scripts/audit.py

check: .venv/ready ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Once, of torch's profiler, which meets memory that was there before it.
bench bench-small bench-long: export TORCH_CPP_LOG_LEVEL := ERROR

bench: .venv/ready ## ratios of time and memory on this machine, ten minutes on two cores (PEFTBENCH_DATA: real data)
	$(BIN)/python scripts/bench.py

bench-small: .venv/ready ## a few steps of the same, as CI runs it
	$(BIN)/python scripts/bench.py --size small --only steps

bench-long: .venv/ready ## epochs of MRPC, RTE, CoLA, 10,000 rows of SST-2 with three seeds, a hundred texts; hours on two cores
	$(BIN)/python scripts/bench.py --size long

format: .venv/ready ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## forget the environment and caches
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache
