# The everyday commands; `make` alone lists them. All is installed into .venv, for other versions into .venv-*, and nowhere else.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MEASURING := $(VENV)/.measuring
# A COCO data root to paste objects of in `evidence`, with annotations/ and train2017/; without it there is no such set.
COCO ?= ../shared/data/coco-mini
PASTED := $(wildcard $(COCO)/annotations/instances_train2017.json)

.DEFAULT_GOAL := help
.PHONY: help demo speed evidence gallery docs test test-slow test-oldest test-newest coverage mutants lint clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(INSTALLED) ## make a data set, train on it, evaluate and draw, on the CPU: out/demo
	@$(BIN)/bcnet demo -o out/demo --overwrite

speed: out/speed/annotate.txt out/speed/eval.txt out/speed/viz.txt out/speed/model.txt ## time annotation, evaluation, drawing and both heads, each once: out/speed
	@cat $^

out/speed/%.txt: | $(INSTALLED)
	@mkdir -p $(@D)
	@$(BIN)/python -m benchmarks $* > $@.part
	@mv $@.part $@

evidence: $(INSTALLED) ## does the bilayer head help? Trials of hours on a CPU, resumed where they stopped: out/evidence
	@$(BIN)/python -m benchmarks evidence -o out/evidence $(if $(PASTED),--coco '$(PASTED)' --images '$(COCO)/train2017')

gallery: $(INSTALLED) ## the pictures of docs/gallery.md, of the run that `make demo` trained; needs Chromium
	@$(BIN)/python docs/gallery/shoot.py out/demo/run

docs: $(INSTALLED) ## the documentation as a site, its generated pages first: site/index.html
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'written: site/index.html'

test: $(INSTALLED) ## the tests of every change, a few minutes
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-slow: $(INSTALLED) ## the tests that take minutes each
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 --dist worksteal

test-oldest: ## the tests with the least version of everything, in .venv-oldest: PYTHON=python3.10
	@$(MAKE) --no-print-directory test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-newest: ## the tests with the newest version of everything, in .venv-newest: PYTHON=python3.13
	@$(MAKE) --no-print-directory test VENV=.venv-newest CONSTRAINTS=

coverage: $(MEASURING) ## the lines of bcnet_core that the tests run; fails below 93 %
	@rm -rf out/coverage && mkdir -p out/coverage
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

mutants: $(MEASURING) ## inject small faults into annotations and losses, and count those that tests miss (up to an hour): out/mutants
	@rm -rf out/mutants && mkdir -p out/mutants
	@cp -R bcnet_core bcnet_cli recipes tests pyproject.toml out/mutants
	@cd out/mutants && OMP_NUM_THREADS=1 BCNET_MAX_EXAMPLES=40 ../../$(BIN)/mutmut run --max-children 2 > mutmut.log
	@cd out/mutants && ../../$(BIN)/mutmut results --all true | ../../$(BIN)/python tests/mutants.py

lint: $(INSTALLED) ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: ## remove caches and build files (.venv, out and runs stay)
	@rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'error: bcnet needs Python 3.10 or newer, which `$(PYTHON)` is not' >&2; \
		echo '  choose another: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'installing bcnet and its tools into $(VENV) (torch is large: minutes) ...'
	@$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=-c %) -e '.[dev]'
	@touch $@

$(MEASURING): $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=-c %) -e '.[measure]'
	@touch $@
