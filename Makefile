# Two commands do everything on a fresh machine: `make table1` and `make test`.
# `PYTHON=python3.12 make ...` chooses the stack: 3.10-3.11 is TensorFlow 2.15 with tensorflow-addons, 3.12 and later is Keras 3.
PYTHON ?= python3
PROFILE ?= demo
SEED ?= 1
RUNS ?= runs
STUDY ?= demo
DATA ?=
TAG := $(shell $(PYTHON) -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
VENV := .venv/$(TAG)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help table1 study dryrun test install lint clean

help:
	@echo "make table1   environment, install, and Table 1 on the synthetic cohort (PROFILE=demo SEED=1 RUNS=runs)"
	@echo "make study    Table 1 over seeds 1, 2, 3, rows beyond the paper, verdicts (STUDY=demo; variants, missing_labels, local_epochs, imbalance, sites, tumour_share, phantom)"
	@echo "make study STUDY=real_anatomy DATA=folder   the same on deformed copies of your own CTs: <folder>/manifest.json lists them with pancreas masks"
	@echo "make dryrun   the paper's full-size profile: built, one training step, one federated round, memory estimate"
	@echo "make test     environment, install, lint and the tests"
	@echo "make install  only the environment, in $(VENV)"
	@echo "PYTHON=python3.12 make ... uses another Python and so another stack; each has an environment of its own."

install: $(READY)

$(READY): setup.py pyproject.toml
	@test -n "$(TAG)" || { echo "error: $(PYTHON) does not start; name a Python of 3.10 or later: PYTHON=python3.11 make ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is $(TAG); 3.10 or later is needed: PYTHON=python3.11 make ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 --editable '.[test]'
	@touch $@

table1: $(READY)
	$(BIN)/python -m experiments.table1 --flagfile=experiments/flagfiles/$(PROFILE).flags --seed=$(SEED) --runs=$(RUNS)

study: $(READY)
	$(BIN)/python -m experiments.study --study=experiments/studies/$(STUDY).json --runs=$(RUNS) $(if $(DATA),--data="$(DATA)")

dryrun: $(READY)
	$(BIN)/python -m experiments.dryrun --flagfile=experiments/flagfiles/paper.flags

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

clean:
	rm -rf .venv build dist *.egg-info
