# Everything a developer runs. Settings are given on the command line (make run PORT=5001) or by the environment;
# MONGODB_URI, REDIS_URL, MONGODB_DATABASE and LOG_DIR pass through where they are set.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 5000
DATA_DIR ?= .data
SECRETS_DIR ?= secrets
WORKERS ?= 2
ASYNC_MODE ?= eventlet
VAULT ?= 0
RATE_LIMIT_SCALE ?= 1
ARGS ?= --help
PYTEST_ARGS ?=
# Test files at a time, each with servers of its own.
PYTEST_WORKERS ?= 2
BENCH_ARGS ?=

VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run flask test soak lint bench constraints clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\): ## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 15

# exec, and the tether to make ($$PPID): a signal reaches the stack whoever gets it first, and whatever becomes of make.
run: export HOST := $(HOST)
run: export PORT := $(PORT)
run: export DATA_DIR := $(DATA_DIR)
run: export SECRETS_DIR := $(SECRETS_DIR)
run: export WORKERS := $(WORKERS)
run: export ASYNC_MODE := $(ASYNC_MODE)
run: export VAULT := $(VAULT)
run: export RATE_LIMIT_SCALE := $(RATE_LIMIT_SCALE)
run: ## Run the app with its own MongoDB and Redis (VAULT=1: and a secrets server) until Ctrl-C
	@$(PYTHON) tools/setup_venv.py run
	@exec $(VENV_PYTHON) tools/local_stack/tethered.py SIGTERM $$PPID $(VENV_PYTHON) -m tools.local_stack

flask: ## Run a command of the operators beside `make run`; ARGS="settings --json"
	@test -r $(DATA_DIR)/stack.env || { echo "nothing runs in $(DATA_DIR) (DATA_DIR); start it with make run" >&2; exit 1; }
	@set -a && . $(abspath $(DATA_DIR))/stack.env && exec .venv/bin/flask $(ARGS)

test: ## Run the tests; PYTEST_ARGS="-k wallet" chooses
	@$(PYTHON) tools/setup_venv.py dev
	@exec $(VENV_PYTHON) -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

soak: ## Run the long tests only
	@$(PYTHON) tools/setup_venv.py dev
	@exec $(VENV_PYTHON) -m pytest -m soak $(PYTEST_ARGS)

lint: ## Check style, formatting, types and who imports whom
	@$(PYTHON) tools/setup_venv.py dev
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports

bench: ## Measure; BENCH_ARGS go to `python -m bench`
	@$(PYTHON) tools/setup_venv.py bench
	@exec $(VENV_PYTHON) -m bench $(BENCH_ARGS)

constraints: ## Pin all that the requirement files bring along (after editing one)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && $(PYTHON) -m venv "$$scratch" && \
	"$$scratch/bin/pip" install --quiet -r requirements-dev.txt -r requirements-bench.txt && \
	{ echo '# Every package at its exact version, for all requirement files; made by `make constraints`.'; \
	"$$scratch/bin/pip" freeze; } > "$$scratch/constraints.txt" && cp "$$scratch/constraints.txt" constraints.txt

clean: ## Remove the virtual environment and caches; data and secrets stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
