# make demo   hear the codec work       make test   run the tests
# make lint   ruff and mypy             make clean  remove what these made
# make docs   the API reference (HTML)  make wheel  build the package, and try it elsewhere
#
# All that must be there before: Python 3.11 (or 3.12, 3.13), make and a C compiler (for pesq).

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := $(VENV)/bin
JOBS ?= 2
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Tests and demo start many processes: what one has compiled, the next ones need not.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo install test test-all lint docs wheel clean

demo: $(STAMP)
	$(BIN)/python demo/run_demo.py

install: $(STAMP)

# What encodes, decodes and evaluates; what tests and trains (PyTorch: 4.6 GB) comes on top.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -e . # Python compiles what is used, when it is
	touch $@

$(DEV): $(STAMP)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

test: $(DEV)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'

test-all: $(DEV)
	$(BIN)/python -m pytest -q

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(DEV)
	$(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# In a directory and an environment of its own; nothing of this checkout is on its path.
wheel: $(DEV)
	rm -rf build/dist
	$(BIN)/python -m build --wheel --outdir build/dist
	$(BIN)/python tests/package/check_wheel.py build/dist/*.whl

clean:
	rm -rf $(VENV) demo/out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
