PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
NODE_CLIENTS = tests/interop/node
# Where it is set every process compiles all it imports, a fifth of a start, and every test worker all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-dev demo cluster test lint types kills integration bench fmt lock clean

help: ## these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## the runtime, every service

setup-dev: $(VENV)/.installed-dev ## the runtime and the tools of make test

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing stagecue into $(VENV) (about half a minute the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: setup ## one compressed night with 500 devices, on this machine alone
	@$(BIN)/stagecue demo

cluster: setup ## Kafka, Redis, PostgreSQL and every service on this machine, until Ctrl-C
	@$(BIN)/stagecue cluster up

# Three, for two cores: half of a test's time is waiting for something.
test: setup-dev lint types ## every test that needs no external server, but the slow ones
	@$(BIN)/python -m pytest -n 3 --dist worksteal -m "not external_service and not slow"

lint: setup-dev ## ruff and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: setup-dev ## mypy, strict
	@$(BIN)/mypy

kills: setup-dev ## kill -9 of the whole system at every failpoint, and fifty more at random instants
	@STAGECUE_KILLS=50 $(BIN)/python -m pytest -n 2 -k "random or every_failpoint" tests/e2e/test_kill9_whole_system.py tests/integration/message_producer/test_producer_kill9.py

# Brokers, benchmarks and whole clusters have the machine to themselves; the others mostly wait. Faults are done on two
# clusters at once: nearly all of a fault's time its schedule goes on.
FAULTS := tests/integration/loadtest/test_faults.py
CLUSTERS := tests/integration/loadtest/test_cluster_bench_run.py tests/e2e
ALONE := tests/integration/kafka tests/integration/stagecue/test_wrong_servers.py $(CLUSTERS)
SIDE_BY_SIDE := tests $(addprefix --ignore ,$(ALONE) $(FAULTS))

integration: setup-dev $(NODE_CLIENTS)/node_modules/.installed ## slow tests, and tests on Kafka, Redis, PostgreSQL, a browser and Node clients, as processes of this machine
	@$(BIN)/python -m loadtest.cluster.requirements
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "external_service or slow" $(SIDE_BY_SIDE)
	@$(BIN)/python -m pytest -n 2 --dist load -m "external_service or slow" $(FAULTS)
	@$(BIN)/python -m pytest -m "external_service or slow" $(ALONE) --deselect tests/e2e/test_kill9_whole_system.py

$(NODE_CLIENTS)/node_modules/.installed: $(NODE_CLIENTS)/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing (for Node clients): apt-get install nodejs npm" >&2; exit 2; }
	@cd $(NODE_CLIENTS) && npm ci --silent --no-audit --no-fund
	@touch $@

bench: setup-dev ## the figures of the README
	@$(BIN)/stagecue bench dispatch

fmt: setup-dev ## format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## rewrite the lock files (needs uv)
	uv pip compile -q --universal --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11 --extra all --group build pyproject.toml -o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11 --extra all --group dev pyproject.toml -o requirements-dev.lock

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info $(NODE_CLIENTS)/node_modules
