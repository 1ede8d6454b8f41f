# Everything runs from python3 and make: the environment is made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint format docs bench

help:
	@echo "make demo    train every domain briefly on synthetic data and write demo/index.html"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff rewrite the sources"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   time the core against plain PyTorch"

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV); this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev,docs]'
	@touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/heed demo --out demo
	@echo "Open $(CURDIR)/demo/index.html"

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

bench: $(INSTALLED)
	$(BIN)/heed attention benchmark
