# vitral: `make run` answers a question on a fresh machine, `make test` proves it. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
MODEL  ?= smollm2-135m-instruct
HOST   ?= 127.0.0.1
PORT   ?= 8000
ARGS   ?=
JOBS   ?= auto
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
TORCH  := $(shell grep '^torch==' constraints.txt)
PIPPIN := $(shell grep '^pip==' constraints.txt)
# A stamp is named by what was installed: change a pin and the next `make` installs again, change nothing and it is instant.
KEY    := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
CORE   := $(VENV)/.stamp-core-$(KEY)
DEV    := $(VENV)/.stamp-dev-$(KEY)

.PHONY: help setup run test check format bench certify docs lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(CORE)  ## a virtual environment in .venv with the pinned packages (a no-op the second time)

run: setup  ## answer one question, then serve the page (MODEL= HOST= PORT= to change)
	$(PY) -m vitral pull $(MODEL)
	$(PY) -m vitral serve $(MODEL) --host $(HOST) --port $(PORT) --self-check $(ARGS)

test: $(DEV)  ## fetch what the tests read, then run them (ARGS="-k attention" to choose)
	$(PY) tests/artefacts.py fetch
	$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: $(DEV)  ## format, lint, types, layers, smoke alarms, docs in step with the code
	$(VENV)/bin/ruff format --check src tests scripts bench
	$(VENV)/bin/ruff check src tests scripts bench
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) scripts/alarms.py
	$(PY) -m scripts.docs --check

format: $(DEV)  ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix src tests scripts bench
	$(VENV)/bin/ruff format src tests scripts bench

bench: setup  ## measure this machine (each script in bench/ says what it measures)
	for script in bench/*.py; do echo "== $$script"; $(PY) $$script; done

certify: $(DEV)  ## compare every family with its reference and write the certificates (ARGS=qwen3 for one)
	$(PY) -m vitral certify $(or $(ARGS),--all)

docs: $(DEV)  ## write the pages that come from the code (docs/cli.md, docs/families)
	$(PY) -m scripts.docs

lock:  ## resolve constraints.txt anew
	PYTHON=$(PYTHON) scripts/lock.sh

clean:  ## remove the environment, the caches and the builds (pulled models stay)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests scripts bench -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes in first and alone, so that a wheel lying on the machine, or TORCH_INDEX, decides its build.
# `.unfinished` marks a set-up that was cut short: the next one starts from an empty environment.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "error: $$($(PYTHON) --version) is too old. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
@if [ -e $(VENV)/.unfinished ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
  echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); fi
@touch $(VENV)/.unfinished
@echo "installing $(TORCH) (190 MB for the CPU build), then the packages of constraints.txt: a few minutes the first time"
$(PIP) install --quiet --upgrade "$(PIPPIN)"
$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
$(PIP) install --quiet --constraint constraints.txt --editable "$(1)"
@rm -f $(VENV)/.stamp-* $(VENV)/.unfinished
@touch $(2)
@echo "ready: $(1) in $(VENV)"
endef

$(CORE):
	$(call install,.,$(CORE))

$(DEV):
	$(call install,.[dev],$(CORE) $(DEV))
