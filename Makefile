# `make demo` and `make test` each start from nothing: they make .venv, install, and run.
PYTHON ?= python3
VENV := .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin

.PHONY: install demo test lint types check-example clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_FLAGS) --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet $(PIP_FLAGS) --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	run=$$($(BIN)/hfgen train dcgan --dataset_name mnist-mini) && \
	$(BIN)/hfgen sample $$run --num_images 64 --output $$run/grid.png && \
	echo "Look at $$run/grid.png and $$run/README.md"

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile  # tests compute on one thread each

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check-example:
	bash examples/check.sh

clean:
	rm -rf $(VENV) build dist *.egg-info
