# Everything runs in .venv, which is made once and remade only when pyproject.toml changes.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready
TRAINING := tests/test_training.py tests/test_train_cli.py

.PHONY: demo test lint fuzz kills clean

demo: $(READY)
	$(BIN)/illama-deploy demo --out illama-out/demo --force

test: $(READY)
	@# Training in a process of its own: after the runtimes of all other tests it was seen to crash (docs/log.md).
	$(BIN)/python -m pytest $(patsubst %,--ignore=%,$(TRAINING))
	$(BIN)/python -m pytest $(TRAINING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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

clean:
	rm -rf .venv build dist illama-out *.egg-info
