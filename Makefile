# Two commands: `make demo` runs the whole main job, `make test` checks everything. Both make the environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLOCK := date +%s

.PHONY: demo test lint types unit env bench lock clean

demo: env
	@begin=$$($(CLOCK)); $(BIN)/nas demo --out out/demo && echo "make demo: $$(( $$($(CLOCK)) - begin )) s"

test: env
	@begin=$$($(CLOCK)); $(MAKE) --no-print-directory lint types unit && echo "make test: $$(( $$($(CLOCK)) - begin )) s"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

unit: env
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=85

bench: env
	$(BIN)/python -m pytest benchmarks --benchmark-only

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[nas,dev]'
	@touch $@

# After a change of dependencies: a fresh environment from pyproject.toml alone, frozen.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check '.[nas,dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude latencykit | sed 's/+cpu//' > constraints.txt
	rm -rf $(VENV)-lock build

clean:
	rm -rf $(VENV) out build
