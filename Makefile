# Every target does its own set-up: a virtual environment in .venv, then an editable install.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: install install-core demo test lint bench results clean

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# The stamps are newer than pyproject.toml once the install is done, so a second call does nothing.
$(VENV)/.core: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.core
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

install-core: $(VENV)/.core
install: $(VENV)/.core $(VENV)/.test

demo: install-core
	$(BIN)/limbeck demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: install
	$(BIN)/python -m benchmarks

results: install
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
