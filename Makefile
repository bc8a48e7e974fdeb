# Everything runs in .venv, which is made once and remade only when pyproject.toml changes. Only test-lowest has an
# environment of its own.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
TRAINING := $(patsubst %,tests/training/test_%.py,training train_cli)
# What decodes damaged files or catches signals.
HOSTILE  := $(patsubst %,tests/%.py,data/test_data_layouts test_ending fuzz/test_fuzz runtime/test_onnx_file \
	report/test_report_hostile training/test_run_state)
LOWEST := .venv-lowest
# make test-lowest TESTS="tests/data tests/test_cli.py" runs some of them.
TESTS := $(patsubst %,--ignore=%,$(TRAINING) $(HOSTILE))

.PHONY: demo test test-fast test-lowest lint fuzz kills clean

demo: $(READY)
	$(BIN)/illama-deploy demo --out illama-out/demo --force

test: $(READY)
	@# Training in a process of its own: after the runtimes of all other tests it was seen to crash (docs/log.md).
	$(BIN)/python -m pytest $(patsubst %,--ignore=%,$(TRAINING) $(HOSTILE))
	$(BIN)/python -m pytest $(HOSTILE)
	$(BIN)/python -m pytest $(TRAINING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Under two minutes: what is not marked `slow`.
test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# All tests with the lowest version that pyproject.toml allows of each package it names. Old packages warn of what newer
# ones have deprecated; all other warnings are errors here, too.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(TESTS)
ifneq ($(origin TESTS),command line)
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(HOSTILE)
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(TRAINING)
endif

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

# Thousands of damaged files, and kill -9 at many moments; both may be stopped, and `fuzz` goes on where it was.
FUZZ   := illama-out/fuzz

fuzz: $(READY)
	$(BIN)/python -W ignore -m tests.fuzz --seed 0 --mutants 5000 --jobs 2 --out $(FUZZ)/mutants

kills: $(READY)
	$(BIN)/python -W ignore -m tests.fuzz.kills --seed 0 --kills 20 --pairs 50 --out $(FUZZ)/kills

# torch is asked for by name in the same breath as torchvision so that pip picks a matching pair.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.11" torchvision --editable ".[dev]"
	touch $@

# The lowest versions have wheels for the lowest Python.
$(LOWEST)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed; say PYTHON=python3.11")'
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable ".[test]"
	touch $@

clean:
	rm -rf .venv $(LOWEST) build dist illama-out *.egg-info
