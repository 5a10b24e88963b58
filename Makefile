# `make help` lists what there is. Everything happens in .venv; nothing outside this folder is touched.
PYTHON ?= python3
scale ?= laptop
section ?=
jobs ?=
engine ?=
width ?=
seeds ?=
force ?=
language ?=
p ?=
# To the shell as a variable, which it does not read again: brackets, quotes and blanks stay what they are.
export scale section jobs engine language width seeds force p
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup figures report reference chapter docs restore runs test test-long lint bench lab clean clean-runs

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo; echo "options: make figures scale=smoke|laptop|mnist|fashion|cifar|thesis|thesis-resnet34 section='1_baseline 2-1_width' p='smoothing=5' jobs=2 width=column language=de seeds=10 force=1"

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

setup: $(READY)  ## create .venv with the pinned packages (the others do it themselves)

figures: $(READY)  ## train what is missing, execute the notebooks that have changed (force=1: all), write figures/<scale>/
	@$(PY) -m thesislib figures --scale "$$scale" $${section:+--section $$section} $${jobs:+--jobs "$$jobs"} $${width:+--width "$$width"} $${language:+--language "$$language"} $(if $(filter-out 0,$(force)),--force) $${seeds:+--seeds "$$seeds"} $${p:+-p "$$p"}

report: $(READY)  ## the executed notebooks as pages for a browser: figures/<scale>/report/index.html
	@$(PY) -m thesislib report --scale "$$scale"

reference: figures  ## the same, then keep .pgf, .png, .gif, .json, .csv and the runs, without weights, in figures/reference/<scale>/
	@$(PY) -m thesislib pack --scale "$$scale" $${seeds:+--seeds "$$seeds"} --file "figures/reference/$$scale/runs.zip"
	@cd "$$($(PY) -c 'import sys; from thesislib.plots import save; print(save.figures_folder(sys.argv[1]))' "$$scale")" && cp -- *.pgf *.png *.json *.csv $$(ls | grep "\.gif$$") "$(CURDIR)/figures/reference/$$scale/"

chapter: $(READY)  ## figures/<scale>/chapter.pdf: the results with figures, captions and tables, from what make figures drew (needs TeX)
	@$(PY) -m thesislib chapter --scale "$$scale" $${engine:+--engine "$$engine"} $${language:+--language "$$language"}

docs: $(READY)  ## docs/RESULTS.md and the chapters in figures/reference/, from the tables and pictures there
	@$(PY) docs/results.py && $(PY) docs/rules.py

restore: $(READY)  ## put the runs of figures/reference/<scale>/ among yours: figures without training
	@$(PY) -m thesislib unpack "figures/reference/$$scale/runs.zip"

runs: $(READY)  ## list the runs of a scale: done and missing
	@$(PY) -m thesislib list --scale "$$scale" $${seeds:+--seeds "$$seeds"}

test: $(READY)  ## the tests; those that need TeX or Chromium are skipped where it is missing
	@$(PY) -m pytest -m "not long" --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-long: $(READY)  ## the other tests: Slurm, local launches, the explorer in a browser, what make figures leaves as it is
	@$(PY) -m pytest -m long --numprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## style of code and notebooks
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check thesislib tests docs
	@$(VENV)/bin/nbstripout --verify notebooks/*.ipynb

bench: $(READY)  ## seconds of an epoch and a step, to figures/reference/bench.md (30 minutes; needs MNIST and CIFAR-10)
	@$(PY) tests/benchmarks/bench.py

lab: $(READY)  ## JupyterLab on the notebooks
	@$(PY) -m thesislib lab

clean: $(READY)  ## delete the figures that were written here, never the runs
	@$(PY) -m thesislib clean --figures

clean-runs: $(READY)  ## delete all runs, after asking
	@$(PY) -m thesislib clean
