# Everything here installs into this folder (.venv, devkit/node_modules) and needs Python 3.13, Node 20 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo run drop test crash storm bench screenshot scan bicep lint format clean

setup: .venv/.installed devkit/node_modules/.installed

.venv/.installed: requirements.txt requirements-cli.txt devkit/requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] >= (3, 13) else "batch_fn needs Python 3.13 or later: make setup PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

devkit/node_modules/.installed: devkit/package-lock.json
	npm ci --prefix devkit --silent --no-audit --no-fund --ignore-scripts
	@touch $@

demo: setup
	@$(BIN)/python -m devkit.demo

run: setup
	@$(BIN)/python -m devkit.run $(if $(FORWARD),--forward "$(FORWARD)") $(if $(SPEED),--speed "$(SPEED)")

drop: setup
	@$(BIN)/python -m devkit.drop $(if $(FILE),"$(FILE)") $(if $(DEPLOYMENT),--deployment "$(DEPLOYMENT)")

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup

bench: setup .bench/packages/.installed
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

# The yardsticks are for the benchmark only: they lie beside the environment of app and tests, not in it.
.bench/packages/.installed: bench/requirements.txt | setup
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --target .bench/packages -r bench/requirements.txt
	@touch $@

# checkov brings a hundred packages of its own: they lie beside the environment of app and tests, not in it.
scan: .checkov/.installed
	@$(BIN)/python -m tests.infra.scan

.checkov/.installed: infra/requirements.txt | setup
	$(PYTHON) -m venv .checkov
	.checkov/bin/pip install --quiet --disable-pip-version-check -r infra/requirements.txt
	@touch $@

# Needs a bicep compiler: BICEP, or one on the PATH. WRITE=1 writes the snapshots that the tests read.
bicep: setup
	@$(BIN)/python -m tests.infra.bicep $(if $(WRITE),--write)

crash: setup
	$(BIN)/python -m tests.reliability.crash $(if $(STORY),--story $(STORY)) $(if $(EVERY),--every $(EVERY)) $(if $(ONLY),--only $(ONLY))

storm: setup
	$(BIN)/python -m tests.reliability.storm $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

screenshot: setup
	@$(BIN)/python -m tests.dashboard.screenshot

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv devkit/node_modules .devkit .bench .checkov out
