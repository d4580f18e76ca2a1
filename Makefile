PYTHON ?= python3
PY := .venv/bin/python
export JAX_PLATFORMS ?= cpu

.PHONY: demo test test-all bench bench-quick lint clean

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] < (3, 14), "functrace needs Python 3.11 to 3.13: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

demo: .venv/installed
	$(PY) examples/train_digits.py

test: .venv/installed lint
	$(PY) -m pytest -n 2 -m "not slow"

test-all: .venv/installed lint
	XLA_FLAGS= $(PY) -m pytest -n 2

bench: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(PY) benchmarks/run.py --plot benchmarks/checkpointing.png

bench-quick: .venv/installed
	$(PY) benchmarks/run.py unjitted_grad dispatch scalar_chain laplacian nonfinite gradient_flow sparse

lint: .venv/installed
	.venv/bin/ruff check functrace tests examples benchmarks
	.venv/bin/pyright --project pyproject.toml --pythonpath $(PY)
	.venv/bin/lint-imports

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist out
