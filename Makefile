# The only commands a person must know. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
HOME_  := $(CURDIR)/.airflow
LOCAL  := $(BIN)/python -m airflow_ibkr_plugin.cli.local

.DEFAULT_GOAL := help
.PHONY: help install run smoke test test-ib-async test-clients lint bench pacing-test crash-test clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up the environment in .venv

$(STAMP): pyproject.toml setup.cfg constraints.txt strategy_plugins/momentum/pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and \
	  "Python %d.%d cannot be used: 3.11, 3.12 or 3.13 is needed. Try: make install PYTHON=python3.12" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
	  --editable '.[dev]' --editable strategy_plugins/momentum
	@touch $@

run: install ## everything on this machine: simulated gateway, MLflow, Airflow, the examples; Ctrl-C stops
	@$(LOCAL) run --home $(HOME_) --examples example_configs

smoke: install ## the same, headless, on free ports; exit status 0 if every example did well
	@$(LOCAL) smoke --home $(CURDIR)/.airflow-smoke --examples example_configs

test: install ## all tests
	$(BIN)/python -m pytest

test-ib-async: ## the broker tests on ib_async, in an environment of its own
	test -x .venv-ib-async/bin/python || $(PYTHON) -m venv .venv-ib-async
	.venv-ib-async/bin/python -m pip install --quiet --requirement constraints-ib-async.txt
	.venv-ib-async/bin/python -m pip install --quiet --no-deps --editable .
	.venv-ib-async/bin/python -m pytest tests/broker

CLIENTS := $(basename $(notdir $(wildcard tests/simulator/clients/requirements/*.txt)))

test-clients: install $(CLIENTS:%=.venv-clients/%/.installed) ## the simulator's scenarios on other client libraries
	@for client in $(CLIENTS); do \
	  echo "--- $$client"; \
	  SIMULATOR_PYTHON=$(CURDIR)/$(BIN)/python .venv-clients/$$client/bin/python -m pytest -q tests/simulator/clients \
	  || exit 1; \
	done

.venv-clients/%/.installed: tests/simulator/clients/requirements/%.txt | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --requirement $<
	@touch $@

crash-test: install ## kill order tasks and services everywhere and compare the books; CRASH_CASES, CRASH_SEED
	$(BIN)/python tests/crash

lint: install ## ruff, strict types, the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pacing-test: install ## eight processes fetch history as fast as they may, for ten and a half real minutes
	$(BIN)/python -m benchmarks.pacing

bench: install ## measured side by side: broker seam, pipeline, import cost
	$(BIN)/python -m benchmarks

clean: ## remove the environment and every local installation
	rm -rf $(VENV) .venv-ib-async .venv-clients .airflow .airflow-smoke
