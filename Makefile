PYTHON ?= python3
BIN := .venv/bin

.PHONY: test demo lint types docs packaging

test: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not slow and not packaging"

demo: .venv/ready
	$(BIN)/heed demo --out demo

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

packaging: .venv/ready
	$(BIN)/python -m pytest -m packaging

docs: .venv/docs
	$(BIN)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[all,dev]' -c constraints.txt
	touch $@

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@
