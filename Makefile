# make demo   restore the shipped sample scan, from nothing but Python
# make test   all tests (installs what they need)
# make docs      the documentation site, in build/site; warnings are errors
# make notebooks run all notebooks, compare their figures
# make tables    every benchmark table and figure from its scores, and what README quotes; DATA=../shared/data scores first
# make dist      wheel and sdist, and whether the wheel works on its own
# make check  lint, types, import contracts and the quick tests, in three minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
SOURCES := pyproject.toml constraints.txt

.PHONY: setup demo test check lint fix types contracts docs notebooks tables dist clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	touch $@

setup: $(DEV_STAMP)

demo: $(STAMP)
	$(BIN)/medldm demo demo_result --overwrite

test: $(DEV_STAMP)
	./.ci/display
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/run_tests.py

check: $(DEV_STAMP) lint types contracts
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/run_tests.py --quick

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/names.py
	$(BIN)/python docs/wrapping.py
	$(BIN)/hadolint Containerfile
	$(BIN)/codespell medldm napari_plugin tests docs *.md

fix: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV_STAMP)
	$(BIN)/mypy

contracts: $(DEV_STAMP)
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari_plugin/napari_medldm/napari.yaml

docs: $(DEV_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(DEV_STAMP)
	$(BIN)/python -m pytest -q --nbmake --nbmake-timeout=400 notebooks

tables: $(DEV_STAMP)
	$(BIN)/python docs/benchmarks/all.py $(DATA)

dist: $(DEV_STAMP)
	./.ci/dist.sh $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info demo_result
