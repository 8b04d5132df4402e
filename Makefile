# Everything a developer does, and all that CI runs. `make help` lists it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo
CACHE  := $(or $(OMOTE_CACHE),$(HOME)/.cache/omote)
CLIPS  := $(CACHE)/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-fast bench bench-streaming soak clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.installed  ## Create the environment and install omote
$(VENV)/.installed: pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omote needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint deploy/constraints.txt --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint deploy/constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## Run the whole pipeline on a composed video; pictures and report in out/demo
	@$(BIN)/omote models pull
	@$(BIN)/python -m deploy.demo.compose $(CLIPS)
	@$(BIN)/omote enrol deploy/graphs/file.yaml $(CLIPS)/enrol --into $(CLIPS)/gallery.npz --keep-photos
	@$(BIN)/omote run deploy/graphs/file.yaml input=$(CLIPS)/demo.mp4 gallery=$(CLIPS)/gallery.npz out=$(OUT)

check: $(VENV)/.developing  ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check  ## Check, and run every test
	@$(BIN)/omote models pull
	$(BIN)/python -m pytest

test-fast: $(VENV)/.developing  ## The tests that need no cluster, GPU or broker
	$(BIN)/python -m pytest -m 'not ray and not gpu and not broker'

bench: $(VENV)/.developing  ## Print the table of figures of the local runner
	@$(BIN)/omote models pull --group models --group clips --group benchmarks
	$(BIN)/python benchmarks/local.py

bench-streaming: $(VENV)/.developing  ## Print the table of figures on Ray, from Kafka to Kafka
	@$(BIN)/omote models pull
	$(BIN)/python benchmarks/streaming.py

soak: $(VENV)/.developing  ## Kill something every minute for half an hour; nothing may be lost or doubled
	@$(BIN)/omote models pull
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),30)

clean:  ## Remove what was made here; the cache of weights stays
	rm -rf $(VENV) out build *.egg-info
