# Everycent. `make help` lists what can be done; every target prepares what it needs.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

.PHONY: help up down reset test check fmt openapi crash boundaries guards history soak flash-sale drill bench bench-checkout bench-reconciliation screenshots lock

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: .venv/.installed ## The whole stack on http://127.0.0.1:8000 until Ctrl-C (PORT=9000, DEMO=0: without the day of trading)
	@PORT='$(PORT)' DEMO='$(DEMO)' exec $(BIN)/python -m config.devstack up

down: .venv/.installed ## Stop the stack from another terminal; the data are kept
	@exec $(BIN)/python -m config.devstack down

reset: .venv/.installed ## Stop the stack and forget all its data
	@exec $(BIN)/python -m config.devstack reset

test: check ## Everything that CI runs: check, then all tests on real servers
	@$(BIN)/pytest --quiet --numprocesses 2 --dist loadgroup

check: .venv/.installed ## Lint, types, the import contract, dependencies, migrations, settings, compose file
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "error: not formatted; run: make fmt"; exit 1; }
	@$(BIN)/mypy .
	@$(BIN)/lint-imports --no-cache > .venv/.lint-imports.log || { cat .venv/.lint-imports.log; exit 1; }
	@$(BIN)/deptry . 2> .venv/.deptry.log || { cat .venv/.deptry.log; exit 1; }
	@$(BIN)/python -m tests.check_build_files
	@$(BIN)/python manage.py check --fail-level WARNING
	@$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

fmt: .venv/.installed ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

openapi: .venv/.installed ## Write docs/openapi.yaml anew from the views
	@$(BIN)/python -W ignore manage.py spectacular --validate --fail-on-warn --file docs/openapi.yaml

crash: .venv/.installed ## Kill its processes N times under load, then look whether a cent is missing (N=1000 SEED= NEW=1 WRITE=1)
	@N='$(N)' SEED='$(SEED)' NEW='$(NEW)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.campaigns.crash

boundaries: .venv/.installed ## Kill a process at every boundary of every step, handler and phase (SEED= JOBS= ONLY='checkout' WRITE=1)
	@SEED='$(SEED)' JOBS='$(JOBS)' ONLY='$(ONLY)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.campaigns.boundaries

history: .venv/.installed ## A random history of N operations, after each of which every law of conservation is checked (N=2000 SEED= ON=stack WRITE=1)
	@N='$(N)' SEED='$(SEED)' ON='$(ON)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.histories

guards: .venv/.installed ## Remove each guard against losing money in a copy: its tests have to fail (ONLY=9,10 JOBS=2 WRITE=1)
	@ONLY='$(ONLY)' JOBS='$(JOBS)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.guards

soak: .venv/.installed ## Load at 70 % of the measured limit with a kill a minute: what grows, what waits, what is lost (MINUTES=30 SEED= WRITE=1)
	@MINUTES='$(MINUTES)' SEED='$(SEED)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.campaigns.soak

flash-sale: .venv/.installed ## 500 buyers, 50 copies of one book, a provider that answers 429 (BUYERS= COPIES= WRITE=1)
	@BUYERS='$(BUYERS)' COPIES='$(COPIES)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.campaigns.flash_sale

drill: .venv/.installed ## Plant differences of 18 kinds in books of N clean transactions: all found, no false alarm, fixed, clean (N=100000 COUNT=20 SEED= WRITE=1)
	@N='$(N)' COUNT='$(COUNT)' SEED='$(SEED)' CLEAN='$(CLEAN)' WRITE='$(WRITE)' exec $(BIN)/python -m tests.campaigns.drill

bench: .venv/.installed ## Benchmarks: floor and subject in turn, medians, ratios, CPU (ONLY=expiry,saga WRITE=1)
	@ONLY='$(ONLY)' WRITE='$(WRITE)' exec $(BIN)/python -m benchmarks

bench-checkout: .venv/.installed ## Of these, checkout beside the plain form, a hot product, and reads (CHECKOUTS=1600 WRITE=1)
	@ONLY=checkout,hot,reads WRITE='$(WRITE)' exec $(BIN)/python -m benchmarks

bench-reconciliation: .venv/.installed ## Reconciliation beside COPY, dictionaries, plain SQL and DuckDB: time, peak memory, growth (PAYMENTS=1000000,5000000 ROUNDS=3,1 WRITE=1)
	@ONLY=reconciliation PAYMENTS='$(PAYMENTS)' ROUNDS='$(or $(ROUNDS),3)' WRITE='$(WRITE)' exec $(BIN)/python -m benchmarks

screenshots: .venv/.installed ## Take the pictures of docs/images/ from a running `make up`
	@test -f docs/screenshots.py || { echo "error: there is no docs/screenshots.py yet"; exit 1; }
	@$(BIN)/python docs/screenshots.py

lock: .venv/.installed ## Write requirements*.txt anew from requirements*.in
	@$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --universal --no-emit-index-url requirements.in -o requirements.txt
	@$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --universal --no-emit-index-url requirements-dev.in -o requirements-dev.txt

.venv/.installed: requirements-dev.txt
	@sh config/devstack/install.sh "$(PYTHON)"
