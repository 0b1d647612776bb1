# Convoke's commands; `make help` lists them. They need Python 3.11 to 3.13, make and git, and install everything else
# below .venv/ from the lock files in requirements/.

# The first supported Python on the path; PYTHON=... selects another.
is_supported := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c '$(is_supported)' >/dev/null 2>&1 && echo $$p && break; done)
endif

HOST   ?= $(or $(CONVOKE_HOST),127.0.0.1)
PORT   ?= $(or $(CONVOKE_PORT),3000)
RECIPE ?= lenet
ARGS   ?=

# The serving environment is for NVIDIA GPUs if this machine has their driver (1.6 GB of packages), else for processors.
SERVE_LOCK ?= $(if $(wildcard /proc/driver/nvidia/version /usr/lib/wsl/lib/libcuda.so.1),serve-cuda,serve-cpu)

ENVS := .venv
UV   := $(ENVS)/uv/bin/uv
export BENTOML_DO_NOT_TRACK ?= True
export ORT_DISABLE_TELEMETRY ?= 1
# As git and pip, uv trusts the authorities that the system knows: a network may have one of its own.
export UV_SYSTEM_CERTS ?= true
export PYTHONPATH := $(CURDIR)
export PATH := $(PATH):$(CURDIR)/$(ENVS)/uv/bin

.DEFAULT_GOAL := help
.PHONY: help serve test fuzz check docs format train train-env bench bench-bulk bench-capacity bench-page bench-road \
  bench-sessions bench-training bench-gpu build container \
  container-try audit sbom lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: HOST=$(HOST) PORT=$(PORT) RECIPE=$(RECIPE) PYTHON=$(PYTHON); ARGS=\"...\" passes further arguments."

serve: $(ENVS)/serve.ready ## serve the models in models/ over HTTP (HOST, PORT)
	@$(ENVS)/serve/bin/python -m service --host $(HOST) --port $(PORT) $(ARGS)

test: $(ENVS)/dev.ready ## run the tests in two processes (ARGS="-k name" selects some)
	@$(ENVS)/dev/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: $(ENVS)/dev.ready ## fuzz the service: 20,000 mutated inputs, then random requests and bodies (about 20 minutes)
	$(ENVS)/dev/bin/python -m tests.fuzz.corpus $(ARGS)
	$(ENVS)/dev/bin/python -m tests.fuzz.openapi
	$(ENVS)/dev/bin/python -m pytest tests/fuzz --hypothesis-profile=long

check: $(ENVS)/dev.ready ## check style, formatting, types, imports between folders, dependencies and generated tables
	$(ENVS)/dev/bin/ruff check .
	$(ENVS)/dev/bin/ruff format --check .
	$(ENVS)/dev/bin/mypy
	$(ENVS)/dev/bin/lint-imports
	$(ENVS)/dev/bin/deptry contract service training
	$(ENVS)/dev/bin/deptry benchmarks requirements tests --ignore DEP002,DEP004
	$(ENVS)/dev/bin/python -m tests.docs.generate --check

docs: $(ENVS)/dev.ready ## generate the tables of the documentation from the code
	@$(ENVS)/dev/bin/python -m tests.docs.generate

format: $(ENVS)/dev.ready ## format the code and apply the fixes of the linter
	$(ENVS)/dev/bin/ruff check --fix .
	$(ENVS)/dev/bin/ruff format .

train: $(ENVS)/train.ready ## train a recipe and publish the model to models/ (RECIPE)
	$(ENVS)/train/bin/python -m training train $(RECIPE) --publish $(ARGS)

train-env: $(ENVS)/train.ready ## install the environment of `.venv/train/bin/python -m training`

bench: $(ENVS)/bench.ready $(ENVS)/peers.ready ## benchmark the service beside other servers (25 minutes; ARGS=--quick: 5)
	@$(ENVS)/bench/bin/python -m benchmarks.serving $(ARGS)

bench-bulk: $(ENVS)/bench.ready ## benchmark bulk scoring beside a plain loop over the same files
	@$(ENVS)/bench/bin/python -m benchmarks.bulk $(ARGS)

bench-capacity: $(ENVS)/bench.ready ## measure what a processor can do, by kind of item, and the utilisation (3 minutes)
	@$(ENVS)/bench/bin/python -m benchmarks.capacity $(ARGS)

bench-page: $(ENVS)/bench.ready ## measure what a page takes of the throughput on which somebody draws (2 minutes)
	@$(ENVS)/bench/bin/python -m benchmarks.page $(ARGS)

bench-sessions: $(ENVS)/serve.ready ## benchmark ONNX Runtime sessions: threads, spinning, memory
	@$(ENVS)/serve/bin/python -m benchmarks.sessions $(ARGS)

bench-road: $(ENVS)/serve.ready ## print the microseconds of each stage of a request
	@$(ENVS)/serve/bin/python -m benchmarks.road $(ARGS)

bench-training: $(ENVS)/train.ready ## benchmark training beside the usual script
	$(ENVS)/train/bin/python -m benchmarks.training $(ARGS)

bench-gpu: $(ENVS)/train.ready ## benchmark models and training on an NVIDIA GPU (under 8 minutes)
	$(ENVS)/train/bin/python -m benchmarks.gpu $(ARGS)

build: $(ENVS)/serve.ready ## build the Bento (`bentoml containerize` makes a container of it)
	$(ENVS)/serve/bin/bentoml build $(ARGS)

container: ## build the container image with docker, podman or buildah (VARIANT=cpu or cuda, IMAGE, TOOL)
	@deploy/container/build $(ARGS)

container-try: ## build the image without a container engine, run it as a cluster would, and check it (root; Debian)
	@deploy/container/try $(ARGS)

audit: $(ENVS)/supply.ready ## check the locked packages for known vulnerabilities (OSV)
	@$(ENVS)/supply/bin/python requirements/audit.py $(ARGS)

sbom: $(ENVS)/supply.ready $(ENVS)/serve.ready ## write the bill of materials of the serving environment to dist/
	@sh requirements/sbom.sh $(ENVS)/supply/bin/cyclonedx-py $(ENVS)/serve/bin/python dist/convoke.cdx.json

lock: $(UV) ## resolve the dependencies into requirements/ (ARGS=--upgrade takes newer versions)
	sh requirements/lock.sh $(UV) $(ARGS)

clean: ## remove the environments and the caches of tools
	rm -rf $(ENVS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	find contract service training tests benchmarks requirements -name __pycache__ -type d -prune -exec rm -rf {} +

# Each lock file has an environment, .venv/NAME, which is complete if .venv/NAME.ready is newer than the lock file.
define INSTALL
@echo "Installing $< into $(basename $@) ..."
@$(UV) venv --quiet --allow-existing --no-project --python "$(PYTHON)" $(basename $@)
@$(UV) pip sync --quiet --require-hashes --python $(basename $@)/bin/python $<
@touch $@
endef

$(ENVS)/%.ready: requirements/%.txt $(UV)
	$(INSTALL)

$(ENVS)/serve.ready: requirements/$(SERVE_LOCK).txt $(UV)
	$(INSTALL)

PIP_ARGS := --quiet --disable-pip-version-check --require-hashes

# uv installs the environments. It is the machine's own if it has one, else it is installed by pip, pinned by hash.
$(UV): requirements/uv.txt
	@$(or $(PYTHON),false) -c '$(is_supported)' || { echo "Python 3.11, 3.12 or 3.13 is required, found: \
	  $(or $(PYTHON),none on the path). Select one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@mkdir -p $(@D)
	@if command -v uv >/dev/null && ! test "$$(command -v uv)" -ef $@; then ln -sf "$$(command -v uv)" $@; else \
	  { $(PYTHON) -m venv $(ENVS)/uv >/dev/null 2>&1 && $(ENVS)/uv/bin/python -m pip install $(PIP_ARGS) -r $<; } || \
	  { rm -rf $(ENVS)/uv && $(PYTHON) -m pip install $(PIP_ARGS) --target $(ENVS)/uv -r $<; } || \
	  { rm -rf $(ENVS)/uv; echo "uv could not be installed. Install Python's venv or pip (Debian, Ubuntu:" \
	    "apt-get install python3-venv), or install uv on the path." >&2; exit 1; }; fi
