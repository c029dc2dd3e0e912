# Each target sets up .venv by itself, with the versions that were tested, whose files have the hashes of requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The hash of torch's CPU build for Linux and Python 3.11, which is not on PyPI.
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
# What `make finetune` runs when ARGS is not given.
ARGS ?= --config configs/digits_lite0.yaml

.PHONY: finetune test lint lock clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

finetune: $(VENV)/installed  ## fine-tune: make finetune ARGS="--backbone b7 --dataset flowers"
	$(BIN)/python scripts/finetune.py $(ARGS)

test: $(VENV)/installed lint  ## lint, type check, tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:  ## write requirements.lock anew for constraints.txt, with uv
	uv pip compile --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--quiet constraints.txt --output-file requirements.lock
	sed -i 's/^torch==.*/&\n    --hash=sha256:$(TORCH_CPU) \\/' requirements.lock

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# What the lock leaves to pip is torch's own choice of libraries for a GPU. A source distribution is built with setuptools
# of the same version, as the environment's constraint says.
$(VENV)/installed: export PIP_CONSTRAINT := constraints.txt
$(VENV)/installed: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt requirements.lock
	$(INSTALL) --require-hashes --no-deps --requirement requirements.lock
	$(INSTALL) --no-build-isolation --editable '.[test]'
	touch $@
