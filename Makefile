# Convoke's commands. `make help` lists them. Needs Python 3.11 to 3.13, make and git; everything else is installed
# under .venv/ from the lock files in requirements/.

# The first Python on the path that Convoke runs on; PYTHON=... names another.
fits := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c '$(fits)' >/dev/null 2>&1 && echo $$p && break; done)
endif

HOST   ?= 127.0.0.1
PORT   ?= 3000
RECIPE ?= lenet
ARGS   ?=

ENVS := .venv
UV   := $(ENVS)/uv/bin/uv
export BENTOML_DO_NOT_TRACK := True
export PYTHONPATH := $(CURDIR)
export PATH := $(PATH):$(CURDIR)/$(ENVS)/uv/bin

.DEFAULT_GOAL := help
.PHONY: help serve test fuzz check docs format train train-env bench bench-sessions bench-training build audit sbom lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Settings: PORT=$(PORT) HOST=$(HOST) RECIPE=$(RECIPE) PYTHON=$(PYTHON), and ARGS for the program that runs."

serve: $(ENVS)/serve.ready ## run the service with the models in models/ (PORT=, HOST=)
	@$(ENVS)/serve/bin/python -m service --host $(HOST) --port $(PORT) $(ARGS)

test: $(ENVS)/dev.ready ## run the tests (ARGS="-k name" for some of them)
	@$(ENVS)/dev/bin/python -m pytest $(ARGS)

fuzz: $(ENVS)/dev.ready ## try to break the service: 20,000 broken inputs, then a long search (some 20 minutes)
	$(ENVS)/dev/bin/python -m tests.fuzz.corpus $(ARGS)
	$(ENVS)/dev/bin/python -m tests.fuzz.openapi
	$(ENVS)/dev/bin/python -m pytest tests/fuzz --hypothesis-profile=long

check: $(ENVS)/dev.ready ## lint, formatting, types, walls between folders, declared dependencies, generated tables
	$(ENVS)/dev/bin/ruff check .
	$(ENVS)/dev/bin/ruff format --check .
	$(ENVS)/dev/bin/mypy
	$(ENVS)/dev/bin/lint-imports
	$(ENVS)/dev/bin/deptry contract service training
	$(ENVS)/dev/bin/deptry benchmarks requirements tests --ignore DEP002,DEP004
	$(ENVS)/dev/bin/python -m tests.docs.generate --check

docs: $(ENVS)/dev.ready ## write the tables of the documentation that come from the code
	@$(ENVS)/dev/bin/python -m tests.docs.generate

format: $(ENVS)/dev.ready ## mend what the linter and formatter can mend
	$(ENVS)/dev/bin/ruff check --fix .
	$(ENVS)/dev/bin/ruff format .

train: $(ENVS)/train.ready ## train RECIPE and publish it to models/
	$(ENVS)/train/bin/python -m training train $(RECIPE) --publish $(ARGS)

train-env: $(ENVS)/train.ready ## install what training needs, for .venv/train/bin/python -m training

bench: $(ENVS)/bench.ready $(ENVS)/peers.ready ## measure the service beside its peers (ARGS="--only convoke,fastapi" for some)
	@$(ENVS)/bench/bin/python -m benchmarks.serving $(ARGS)

bench-sessions: $(ENVS)/serve.ready ## measure how ONNX Runtime runs the models here: threads, spinning, memory
	@$(ENVS)/serve/bin/python -m benchmarks.sessions $(ARGS)

bench-training: $(ENVS)/train.ready ## measure training beside the usual script
	$(ENVS)/train/bin/python -m benchmarks.training $(ARGS)

build: $(ENVS)/serve.ready ## build the Bento (see `bentoml containerize --help` for the container)
	$(ENVS)/serve/bin/bentoml build $(ARGS)

audit: $(ENVS)/supply.ready ## ask OSV about holes in the locked packages (says so where it cannot be reached)
	@$(ENVS)/supply/bin/python requirements/audit.py $(ARGS)

sbom: $(ENVS)/supply.ready $(ENVS)/serve.ready ## write the serving environment's bill of materials to dist/
	@sh requirements/sbom.sh $(ENVS)/supply/bin/cyclonedx-py $(ENVS)/serve/bin/python dist/convoke.cdx.json

lock: $(UV) ## resolve the dependencies anew into requirements/ (ARGS=--upgrade)
	sh requirements/lock.sh $(UV) $(ARGS)

clean: ## remove the environments and what tools left behind
	rm -rf $(ENVS) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find contract service training tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment a lock file: .venv/NAME. It is complete when .venv/NAME.ready is there, and newer than its lock.
$(ENVS)/%.ready: requirements/%.txt $(UV)
	@echo "Installing $< into $(ENVS)/$* ..."
	@$(UV) venv --quiet --allow-existing --no-project --python "$(PYTHON)" $(ENVS)/$*
	@$(UV) pip sync --quiet --require-hashes --python $(ENVS)/$*/bin/python $<
	@touch $@

PIP_WORDS := --quiet --disable-pip-version-check --require-hashes

# uv installs the environments: the machine's own where it has one, else by pip, pinned by hash like the rest.
$(UV): requirements/uv.txt
	@$(or $(PYTHON),false) -c '$(fits)' || { echo "Convoke needs Python 3.11, 3.12 or 3.13; found: \
	  $(or $(PYTHON),none on the path). Name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@mkdir -p $(@D)
	@if command -v uv >/dev/null && ! test "$$(command -v uv)" -ef $@; then ln -sf "$$(command -v uv)" $@; else \
	  { $(PYTHON) -m venv $(ENVS)/uv >/dev/null 2>&1 && $(ENVS)/uv/bin/python -m pip install $(PIP_WORDS) -r $<; } || \
	  { rm -rf $(ENVS)/uv && $(PYTHON) -m pip install $(PIP_WORDS) --target $(ENVS)/uv -r $<; } || \
	  { rm -rf $(ENVS)/uv; echo "uv could not be installed: Python's venv or pip is needed (Debian, Ubuntu:" \
	    "apt-get install python3-venv), or uv itself on the path." >&2; exit 1; }; fi
