# `make demo` and `make test` need Python 3.11 or later and nothing else; both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo pictures test unit lint format bench simulate mutation-proof lock lock-doors clean

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make .venv with the pinned dependencies

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: setup ## stage the sample batch with the preview model
	@$(BIN)/ruum-batch run samples/batch.json --out staged --model preview

pictures: demo ## make the pictures of README.md again (needs chromium and chromedriver)
	@$(BIN)/python -m tests.pages.pictures staged

lint: setup ## lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup ## fix lint findings and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## lint, types, import contracts, all tests
	@# four workers even on two cores: many tests wait for leases and processes
	$(BIN)/python -m pytest -n 4 --dist worksteal -q

UNIT := decisions vocabulary results manifest untrusted worker lifecycle rooms assembly
unit: setup ## test the rules and the rooms only: no server, no browser, within a minute
	@$(BIN)/python -m pytest -n 4 --dist worksteal -q -m "not slow" $(addprefix tests/,$(UNIT))

bench: setup ## run all benchmarks into one table (docs/benchmarks.md); BENCH=--quick leaves out the long ones
	@$(BIN)/python benchmarks/table.py $(BENCH)

SEEDS ?= 1000
simulate: setup ## run simulated worlds with faults, one for each seed; SEEDS=10000 sets how many
	@$(BIN)/python -m tests.simulation.run --seeds 0:$(SEEDS)

mutation-proof: setup ## take the product's rules out one at a time: the simulation must notice each
	@$(BIN)/python -m tests.simulation.mutations

COMPILE = $(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

lock: ## pin the newest versions that pyproject.toml allows, with hashes, for every platform
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet uv
	$(COMPILE) --upgrade --group dev pyproject.toml --output-file requirements.lock
	$(MAKE) lock-doors

lock-doors: ## pin the doors' requirements: the product's, without those of the command line and the tests
	test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv; }
	$(BIN)/python -c 'import tomllib; print(*[d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] \
		if not d.startswith(("typer", "rich"))], sep="\n")' > $(VENV)/lock/doors.in
	$(COMPILE) $(VENV)/lock/doors.in --constraint requirements.lock --output-file $(VENV)/lock/doors.txt
	for door in functions/*/; do \
		{ echo "# Made by: make lock-doors"; cat $(VENV)/lock/doors.txt; } > $$door/requirements.txt; done
	rm -rf $(VENV)/lock

clean: ## remove .venv and everything else that was generated
	rm -rf $(VENV) staged build *.egg-info
