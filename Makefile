# Every target sets up what it needs. `make help` lists them.
VENV ?= .venv
CONFIG ?= config/llama.yaml
ARGS ?=
# The first interpreter that runs and is new enough; PYTHON=... overrides the search.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	2>/dev/null && echo $$python && break; done)

BIN := $(VENV)/bin
FUZZ := build/fuzz
SITE := build/site
CLIENTS := build/clients
RAY := build/ray
DEPLOY := build/deploy
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install -qq --constraint constraints.txt
# Stamps: newer than the two files that say what is installed, or pip runs again.
SERVE_READY := $(VENV)/.ready-to-serve
WORK_READY := $(VENV)/.ready-to-work
GPU_PYTHON ?= $(BIN)/python
SHELVES := .:plugins/models:plugins/kernels:plugins/samplers
KUBERNETES := 1.34.0
FROZEN := pyproject.toml constraints.txt
ALONE := tests/attack tests/chaos tests/cli tests/packaging tests/server

.DEFAULT_GOAL := help
.PHONY: help setup serve attack test test-fast test-fuzz test-clients test-examples test-ray test-gpu \
	lint fix types docs deploy-check bench bench-gpu soak check wheel wheel-check freeze clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done

setup: $(WORK_READY)  ## create .venv with all that development needs

serve: $(SERVE_READY)  ## serve CONFIG (config/llama.yaml); fetches the model the first time
	@$(BIN)/llmplug serve --config $(CONFIG) $(ARGS)

attack: $(WORK_READY)  ## attack a server of a tiny model, and look at what it leaves
	@$(BIN)/python -m pytest tests/attack $(ARGS)

# What watches a clock, a process or a machine's memory runs alone; the rest two files at a time.
test: $(WORK_READY)  ## run the whole suite (with ARGS: what they say, one after the other)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	@$(BIN)/python -m pytest $(ALONE)
else
	@$(BIN)/python -m pytest $(ARGS)
endif

test-fast: $(WORK_READY)  ## run the suite without what is slow
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

# What starts a process of its own starts it that way, too. pytest warns of its own plugins.
test-optimised: $(WORK_READY)  ## run the suite without what is slow as under python -O
	@PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -m "not slow" \
		-W "ignore:assertions not in test modules:pytest.PytestConfigWarning" $(ARGS)

test-fuzz: $(WORK_READY)  ## send the server whatever schemathesis makes up (it is installed apart)
	@test -x $(FUZZ)/bin/schemathesis || { $(BIN)/python -m venv $(FUZZ) && \
		$(FUZZ)/bin/python -m pip --disable-pip-version-check install -qq 'schemathesis>=4,<5'; }
	@$(BIN)/python -m pytest tests/server/test_schemathesis.py tests/server/test_fuzz.py $(ARGS)

test-clients: $(CLIENTS)/.ready  ## drive a server with other people's clients (installed apart)
	@$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --rootdir . \
		--server-python $(BIN)/python tests/clients $(ARGS)

test-examples: $(WORK_READY)  ## install the wheels of examples/, test them, ask a server of them
	@$(BIN)/python -m pytest tests/packaging/test_examples.py $(ARGS)

test-ray: $(RAY)/.ready  ## deploy to a Ray cluster of two nodes on this machine (installed apart)
	@$(RAY)/bin/python -m pytest -c tests/ray/pytest.ini --rootdir . tests/ray $(ARGS)

lint: $(WORK_READY)  ## check style, and who imports whom
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run 'make fix'"; exit 1; }
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	@find llmplug plugins tests benchmarks examples -name '*.py' -exec wc -l {} + | awk \
		'$$1 > 400 && $$2 != "total" { print "look twice: " $$2 " has " $$1 " lines" }'
	@echo "lint: ok"

fix: $(WORK_READY)  ## repair what lint can repair
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

types: $(WORK_READY)  ## check types, strictly
	@$(BIN)/mypy

docs: $(WORK_READY)  ## write the reference pages of docs/ from the code
	@$(BIN)/python -m docs.write_reference

site:  ## build docs/ as a site in build/html, warnings being errors (its builder is installed apart)
	@test -x $(SITE)/bin/mkdocs || { $(PYTHON) -m venv $(SITE) && \
		$(SITE)/bin/python -m pip --disable-pip-version-check install -qq 'mkdocs-material>=9.6,<10'; }
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet --strict
	@echo "site: ok"

bench: $(WORK_READY)  ## measure the server of CONFIG, one JSON line a row (ARGS: see --help)
	@$(BIN)/python -m benchmarks.serve --config $(CONFIG) $(ARGS)

soak: $(WORK_READY)  ## ask for ten minutes while processes are killed (ARGS: see --help)
	@$(BIN)/python -m benchmarks.soak --output benchmarks/results/soak.jsonl $(ARGS)

# On a machine with a GPU nothing need be installed: make bench-gpu GPU_PYTHON=python3
test-gpu:  ## compare the Triton kernels and greedy answers with torch's, on a GPU
	@PYTHONPATH=$(SHELVES) $(GPU_PYTHON) -m benchmarks.gpu.check $(ARGS)

bench-gpu:  ## measure kernels, engine and transformers on a GPU, one JSON line a row
	@PYTHONPATH=$(SHELVES) $(GPU_PYTHON) -m benchmarks.gpu.bench $(ARGS)

# The program that the unit starts is not here: another stands in for it.
deploy-check: $(DEPLOY)/.ready  ## check images and manifests with other people's (installed apart)
	@$(DEPLOY)/bin/hadolint deploy/Dockerfile
	@$(DEPLOY)/bin/yamllint --strict --config-file deploy/yamllint.yaml deploy
	@$(DEPLOY)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
	@$(DEPLOY)/bin/kubernetes-validate --strict --quiet --kubernetes-version $(KUBERNETES) \
		$$(grep --files-with-matches --extended-regexp '^apiVersion: (v1|apps/|autoscaling/|networking|policy/)' \
		deploy/kubernetes/base/*.yaml)
	@$(DEPLOY)/bin/python deploy/list_pods.py < deploy/kuberay/rayservice.yaml > $(DEPLOY)/pods.yaml
	@$(DEPLOY)/bin/kubernetes-validate --strict --quiet --kubernetes-version $(KUBERNETES) \
		$(DEPLOY)/pods.yaml
	@! command -v kubectl > /dev/null || { \
		kubectl kustomize deploy/kubernetes/gpu > $(DEPLOY)/gpu.yaml && \
		$(DEPLOY)/bin/kubernetes-validate --strict --quiet --kubernetes-version $(KUBERNETES) \
			$(DEPLOY)/gpu.yaml; }
	@! command -v systemd-analyze > /dev/null || { \
		sed 's|/opt/llmplug/bin/llmplug|/bin/true|' deploy/systemd/llmplug.service \
			> $(DEPLOY)/llmplug.service && systemd-analyze verify $(DEPLOY)/llmplug.service && \
		systemd-analyze security --offline=true --threshold=25 $(DEPLOY)/llmplug.service > /dev/null; }
	@echo "deploy: ok"

wheel: $(WORK_READY)  ## build dist/*.whl
	@rm -rf dist && $(BIN)/python -m build --wheel --no-isolation --outdir dist . \
		> $(VENV)/wheel.log 2>&1 || { cat $(VENV)/wheel.log; exit 1; }
	@ls dist/*.whl

wheel-check: wheel  ## install the wheel alone in an environment of its own, and look at it there
	@rm -rf build/clean && $(BIN)/python -m venv build/clean
	@build/clean/bin/python -m pip --disable-pip-version-check install -qq \
		--constraint constraints.txt dist/*.whl
	@cd build/clean && ./bin/llmplug --help > /dev/null && ./bin/llmplug plugins --check
	@rm -rf build/clean
	@echo "wheel: ok"

check: lint types site wheel-check deploy-check test test-ray  ## all that CI runs

freeze: $(WORK_READY)  ## write constraints.txt anew from what .venv holds
	@{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//' | \
		LC_ALL=C sort -f; } > $(VENV)/constraints.txt && mv $(VENV)/constraints.txt constraints.txt

clean:  ## remove all that the other targets made
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	@find llmplug plugins tests benchmarks docs examples -name __pycache__ -type d -prune \
		-exec rm -rf {} +

# Some systems ship venv without ensurepip; pip can then install itself from outside.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; try make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2> /dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet pip; }

# Without build isolation the constraints hold for the build backend too.
$(SERVE_READY): $(FROZEN) | $(BIN)/python
	@echo "Installing into $(VENV) (minutes the first time: torch is large)"
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(CLIENTS)/.ready: tests/clients/requirements.txt | $(SERVE_READY)
	@$(BIN)/python -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

$(DEPLOY)/.ready: deploy/requirements.txt
	@$(PYTHON) -m venv $(DEPLOY)
	@$(DEPLOY)/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

# It sees what .venv holds, so that torch is installed once.
$(RAY)/.ready: tests/ray/requirements.txt | $(WORK_READY)
	@$(BIN)/python -m venv $(RAY)
	@for site in $(abspath $(VENV))/lib/python3*/site-packages; do \
		echo "import site; site.addsitedir('$$site')" \
			> $$(echo $(RAY)/lib/python3*/site-packages)/project.pth; done
	@$(RAY)/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

$(WORK_READY): $(SERVE_READY)
	@$(INSTALL) --no-build-isolation --editable '.[test,dev,bench]'
	@touch $@
