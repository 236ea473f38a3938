# `make demo` and `make test` each start from nothing: they make .venv, install, and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: install demo test lint types check-example clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/hfgen train dcgan --dataset_name mnist-mini --output_dir $(RUN)
	$(BIN)/hfgen sample $(RUN) --num_images 64 --output $(RUN)/grid.png --overwrite
	@echo "Look at $(RUN)/grid.png and $(RUN)/README.md"

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check-example:
	bash examples/check.sh

clean:
	rm -rf $(VENV) build dist *.egg-info
