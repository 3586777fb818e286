# make demo   hear the codec work       make test   run the tests
# make lint   ruff and mypy             make clean  remove what these made
#
# All that must be there before: Python 3.11 (or 3.12, 3.13), make and a C compiler (for pesq).

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo install test test-all lint clean

demo: $(STAMP)
	$(BIN)/python demo/run_demo.py

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev,experiments]'
	touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -q -m 'not slow and not gpu'

test-all: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo/out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
