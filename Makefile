# Two commands are enough: `make demo` and `make test`. Both set up what they need, say what they do, and may be repeated.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
DEV := $(CURDIR)/.dev
STAMP := $(VENV)/.stamp
KUBERNETES ?= 1.30
WORKERS ?= 4

.PHONY: help demo demo-stop test test-vm e2e-native lint format venv setup kubernetes cinder sidecars vm bench clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: venv kubernetes ## claims become volumes on real images, and pods use one, from nothing
	@$(PY) -m hack.sidecars.build >/dev/null
	@$(PY) hack/demo run $(DEV)

demo-stop: ## stop what the demo left running, and remove it
	@$(PY) hack/demo stop $(DEV)

test: lint kubernetes sidecars cinder vm ## every test, against a real Ceph and a real Kubernetes
	@echo "test: running the tests"
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --ignore tests/vm/long --ignore tests/native

test-vm: kubernetes vm venv ## the virtual machine's tests, the long ones too: rbd-nbd whose processes die, deaths before each step of a stage
	@echo "test-vm: running the tests in a virtual machine"
	$(PY) -m pytest tests/vm

e2e-native: vm venv ## a pod on a native volume that a kubelet 1.30 maps itself, in a virtual machine (minutes)
	@hack/dev-kubernetes build --version 1.30
	@echo "e2e-native: running the tests"
	$(PY) -m pytest -s -v tests/native

lint: venv ## ruff, mypy --strict, the direction of imports
	@echo "lint: ruff, mypy, import-linter"
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: venv ## bring the code into form
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

venv: $(STAMP) ## .venv, with the program in it

$(STAMP): setup.cfg pyproject.toml hack/setup
	@hack/setup
	@echo "venv: making $(VENV)"
	@/usr/bin/python3 -m venv $(VENV)
	@ln -sf /usr/lib/python3/dist-packages/{rados,rbd}.cpython-311-*.so $(VENV)/lib/python3.11/site-packages/
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

setup: ## the Debian packages
	@hack/setup

kubernetes: setup ## build the development Kubernetes, once per machine
	@hack/dev-kubernetes build --version $(KUBERNETES)

sidecars: setup ## build Kubernetes 1.36 and the standard CSI sidecars, once per machine
	@hack/dev-kubernetes build --version 1.36
	@python3 -m hack.sidecars.build
	@python3 -m hack.kustomize.build

vm: setup ## fetch Debian's kernel for the virtual machine that has RBD, once per machine
	@hack/krbd-vm build

cinder: setup ## install the development Cinder from PyPI, once per machine
	@hack/dev-cinder build

bench: venv kubernetes ## how fast, as ratios to bare librbd on the same cluster
	@$(PY) hack/bench core
	@$(PY) hack/bench claims 1000

clean: demo-stop ## remove everything made here
	rm -rf $(VENV) $(DEV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
