# Two commands do everything on a fresh machine: `make table1` and `make test`.
# `PYTHON=python3.12 make ...` selects the stack: TensorFlow 2.15 with tensorflow-addons on Python 3.10 and 3.11, Keras 3 on 3.12 and later.
PYTHON ?= python3
PROFILE ?= demo
SEED ?= 1
RUNS ?= runs
STUDY ?= demo
DATA ?=
WORKERS ?= 2
TAG := $(shell $(PYTHON) -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
VENV := .venv/$(TAG)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Compiled modules are kept: to compile them again would be a third of the start of every program that a test starts.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10
TABLE = $(BIN)/python -m tests.coverage_table .coverage/coverage.json .coverage/files.txt
# sys.monitoring of Python 3.12 measures lines at next to no cost. The tracer that older versions need makes the tests of
# TensorFlow code half as slow again, so there only `make coverage` measures.
MONITORS := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 12) else "")')

.PHONY: help table1 study search dryrun test coverage install lint clean

help:
	@echo "make table1   creates the environment and makes Table 1 on the synthetic cohort (PROFILE=demo SEED=1 RUNS=runs)"
	@echo "make study    makes Table 1 over seeds 1, 2, 3, with rows beyond the paper and verdicts (STUDY=demo; also variants,"
	@echo "              missing_labels, label_settings, local_epochs, imbalance, sites, tumour_share, phantom, methods, bad_site,"
	@echo "              privacy, leakage)"
	@echo "make study STUDY=real_anatomy DATA=folder"
	@echo "              the same on deformed copies of your own CTs; <folder>/manifest.json lists them with pancreas masks"
	@echo "make search   searches topology and operations of the network beside random arms, with evidence (PROFILE=demo SEED=1)"
	@echo "make dryrun   builds the paper's full-size profile, takes one training step and one federated round, estimates memory"
	@echo "make test     lint and all tests, two files at a time (WORKERS=4: four); on Python 3.12 and later"
	@echo "              with the lines covered of each package"
	@echo "make coverage all tests with lines and branches covered, on any Python; slower"
	@echo "make lint     style, formatting and types"
	@echo "make install  only creates the environment, in $(VENV)"
	@echo "PYTHON=python3.12 make ... selects another Python and thus another stack; each has its own environment."

install: $(READY)

$(READY): setup.py pyproject.toml
	@test -n "$(TAG)" || { echo "error: $(PYTHON) does not start; give a Python of 3.10 or later: PYTHON=python3.11 make ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is $(TAG); 3.10 or later is needed: PYTHON=python3.11 make ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 --editable '.[test]'
	@touch $@

table1: $(READY)
	$(BIN)/python -m experiments.table1 --flagfile=experiments/flagfiles/$(PROFILE).flags --seed=$(SEED) --runs=$(RUNS)

study: $(READY)
	$(BIN)/python -m experiments.study --study=experiments/studies/$(STUDY).json --runs=$(RUNS) $(if $(DATA),--data="$(DATA)")

search: $(READY)
	$(BIN)/python -m experiments.search_all --profile=$(PROFILE) --seed=$(SEED) --runs=$(RUNS)

dryrun: $(READY)
	$(BIN)/python -m experiments.dryrun --flagfile=experiments/flagfiles/paper.flags

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
ifeq ($(MONITORS),yes)
	COVERAGE_CORE=sysmon $(PYTEST) --cov --cov-report=json
	@$(TABLE)
else
	$(PYTEST)
	@echo "coverage: make test measures it on Python 3.12 and later, make coverage on this one too (slower)"
endif

coverage: $(READY)
	COVERAGE_CORE=ctrace $(PYTEST) --cov --cov-branch --cov-report=json
	@$(TABLE)

clean:
	rm -rf .venv .coverage build dist *.egg-info
