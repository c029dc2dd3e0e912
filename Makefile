# Each target sets up .venv by itself; constraints.txt pins what was tested.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What `make finetune` runs when ARGS is not given.
ARGS ?= --config configs/digits_lite0.yaml

.PHONY: finetune test lint clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

finetune: $(VENV)/installed  ## fine-tune: make finetune ARGS="--backbone b7 --dataset flowers"
	$(BIN)/python scripts/finetune.py $(ARGS)

test: $(VENV)/installed-test lint  ## lint, type check, tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python setup.cfg constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable '.[test]'
	touch $@
