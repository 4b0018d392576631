# make demo: see placements of real routing compared on a DGX H100 cluster.   make test: every check this project has.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
# Python compiles what is imported, once, which is much less than the whole of every package.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/moesim demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/moesim demo --out $(VENV)/demo & $(BIN)/mypy && wait $$!  # kernels are compiled while types are checked
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

clean:
	rm -rf $(VENV) out
