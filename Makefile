# Each target sets up .venv by itself, with the versions of constraints.txt and the hashes of requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What `make finetune` runs when ARGS is not given.
ARGS ?= --config configs/digits_lite0.yaml

.PHONY: finetune test lint docs lock clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

finetune: $(VENV)/installed  ## fine-tune: make finetune ARGS="--backbone b7 --dataset flowers"
	$(BIN)/python scripts/finetune.py $(ARGS)

test: $(VENV)/installed lint  ## lint, type check, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(VENV)/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed  ## build the pages into build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

lock:  ## write requirements.lock anew for constraints.txt, with uv
	rm -f requirements.lock
	uv pip compile --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--no-emit-package torch --quiet constraints.txt --output-file requirements.lock

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# torch is not in the lock: which build of it fits, and its libraries for a GPU, depend on the machine. Its version, and
# that of setuptools for source distributions, are those of the environment's constraints.
$(VENV)/installed: export PIP_CONSTRAINT := constraints.txt
$(VENV)/installed: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt requirements.lock
	$(INSTALL) --require-hashes --no-deps --requirement requirements.lock
	$(INSTALL) --no-build-isolation --editable '.[test]'
	touch $@
