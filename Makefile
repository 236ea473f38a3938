# `make demo` and `make test` each start from nothing: they make .venv, install, and run.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
# $(call INSTALL,ENVIRONMENT); .ci/run gives a quicker one.
INSTALL = $(1)/bin/pip install --quiet --disable-pip-version-check
BIN := $(VENV)/bin

.PHONY: install demo test test-quick test-oldest test-portable slow lint types check-example clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call INSTALL,$(VENV)) -c constraints.txt torch==2.13.0 -e ".[dev]"
	touch $@

demo: install
	run=$$($(BIN)/hfgen train dcgan --dataset_name mnist-mini) && \
	$(BIN)/hfgen sample $$run --num_images 64 --output $$run/grid.png && \
	echo "Look at $$run/grid.png and $$run/README.md"

# Tests compute on one thread each, two at a time. Those of one file share what they trained.
WHOLE := python -m pytest -n 2 --dist loadfile --durations=25
QUICK := python -m pytest -n 2 --dist worksteal -m "not whole and not slow"

test: install
	$(BIN)/$(WHOLE)

# Nothing that trains or starts a process: before each commit.
test-quick: install
	$(BIN)/$(QUICK)

slow: install
	$(BIN)/python -m pytest -m slow

# The quick tests with the lowest versions that pyproject.toml allows; constraints-oldest.txt says why torch is not one.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/$(QUICK)

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(call INSTALL,$(OLDEST)) -c constraints-oldest.txt torch==2.13.0 -e ".[test,trackers]"
	touch $@

# Comparisons of arithmetic as other processors compute: two threads; without AVX in torch; without AVX in oneDNN.
COMPARED := interop oracles process samplers bound likelihoods closed_forms bijections splines codebook
ARITHMETIC := python -m pytest -n 2 --dist worksteal tests/test_noise.py tests/test_likelihood.py tests/evaluation/test_s*.py \
	$(foreach what,$(COMPARED),$(wildcard tests/families/test_*_$(what).py))

test-portable: install
	OMP_NUM_THREADS=2 $(BIN)/$(ARITHMETIC)
	ATEN_CPU_CAPABILITY=default $(BIN)/$(ARITHMETIC)
	ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/$(ARITHMETIC)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check-example:
	bash examples/check.sh

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info
