# Every target sets up .venv by itself, once; `make` alone lists the targets.
#
#   make course                            all there is to a first look
#   UV_TORCH_BACKEND=cpu make course       the same with the small PyTorch for computers without a GPU
#   make PYTHON=python3.12 course          with the Python you name
#   make VERSIONS=oldest unit              with the oldest versions that pyproject.toml allows (newest: without the lock)

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python
BIN := .venv/bin
READY := .venv/.ready
ONLY ?=

VERSIONS ?= locked
oldest := --resolution lowest-direct
newest := --upgrade
locked := --constraint requirements.lock

FAULTS ?= 20

BENCHMARKS ?= evaluation reranking label_estimation losses images clusters world

.PHONY: help course lab test test-faults test-browser bench lint unit nbval notebooks readme lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  make %-13s %s\n", $$1, $$2}'

course: $(READY)  ## draw the people, run every notebook, write build/course/index.html (ONLY=02 for one)
	@$(BIN)/python tools/course.py --only "$(ONLY)"

lab: $(READY)  ## open the notebooks in JupyterLab, with sliders
	REIDKIT_LIVE=1 $(BIN)/jupyter lab notebooks/00_map.ipynb

test: $(READY)  ## everything that must hold: lint, unit, nbval, and a tree the tests left as it was
	@mkdir -p build && $(TREE) > build/tree-before.txt
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory nbval > build/nbval.txt 2>&1 & notebooks=$$!; \
	  $(MAKE) --no-print-directory unit; unit=$$?; \
	  wait $$notebooks; notebooks=$$?; cat build/nbval.txt; test $$unit -eq 0 -a $$notebooks -eq 0
	@$(TREE) | diff build/tree-before.txt - || { echo "The tests changed the files above; they must leave no trace."; exit 1; }
	@echo "all tests pass"

test-faults: $(READY)  ## FAULTS=20 moments of each fault: kill -9, full disk, forged weights ...; figures/results/faults.json
	REIDKIT_FAULTS=$(FAULTS) $(BIN)/python -m pytest tests/faults

test-browser: $(READY)  ## JupyterLab and the page of the course in Chromium, which is installed where that is possible
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable ".[browser]"
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null \
	  || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq -y install chromium; } > /dev/null 2>&1 \
	  || $(BIN)/python -m playwright install chromium || true  # a test without a browser says so
	@test -f build/course/index.html || $(BIN)/python tools/course.py --only 00
	$(BIN)/python -m pytest tests/browser -m browser -rs

bench: $(READY)  ## every claim about speed, beside its floor and its peers; tables in benchmarks/README.md
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable ".[peers]" \
	  || echo "the peers could not be installed; the benchmarks leave them out"
	for rows in $(BENCHMARKS); do $(BIN)/python benchmarks/$$rows.py || exit 1; done
	$(BIN)/python benchmarks/report.py

lint: $(READY)  ## style of the code and of the notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check

unit: $(READY)  ## tests and doctests, with every shape checked
	$(BIN)/python -m pytest

nbval: $(READY)  ## run every notebook again and compare its outputs with the committed ones
	$(BIN)/python -m pytest --nbval --nbval-current-env notebooks

notebooks: $(READY)  ## execute the committed notebooks in place (ONLY=02 for one)
	$(BIN)/python tools/execute.py $(ONLY)

readme: $(READY)  ## fill in the generated blocks of README.md and the notebooks' cost lines
	$(BIN)/python tools/readme.py

lock: $(READY)  ## choose the exact versions again
	$(BIN)/uv pip compile --universal --upgrade --no-header --no-emit-index-url --no-emit-find-links \
	  --python-version 3.11 --all-extras pyproject.toml --output-file requirements.lock

clean:  ## remove what was built (not .venv, not the data)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# The state of every file that git does not ignore; nothing outside a checkout.
TREE = { git diff HEAD; git ls-files --others --exclude-standard | git hash-object --stdin-paths; } 2>/dev/null

# A Python of at least 3.11, a virtual environment, uv in it, and uv installs the locked versions.
$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/uv || { \
	  for python in $(PYTHON) ''; do \
	    test -n "$$python" || { echo "No Python 3.11 or newer (with venv and pip) among: $(PYTHON). \
	Install one, or name it: make PYTHON=/path/to/python3.12 ..."; exit 1; }; \
	    $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  done; \
	  echo "setting up .venv with $$($$python --version); this downloads PyTorch and Jupyter once" && \
	  $$python -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $($(VERSIONS)) --editable ".[test]"
	@$(BIN)/python -W ignore -c "import umap"  # compiles its kernels, once
	@touch $@
