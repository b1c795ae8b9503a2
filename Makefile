# Every target sets up what it needs: a virtual environment with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process for each core, files kept together; a second thread in each would only get in the way.
PYTEST := python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile
test test-transformers-4: export OMP_NUM_THREADS ?= 1

# The same with the oldest transformers that is supported, and the tests of what depends on it.
OLD_VENV := .venv-transformers-4
OLD_STAMP := $(OLD_VENV)/.installed
OLD_TESTS := tests/test_loading.py tests/test_masked_lm.py tests/test_remote_models.py tests/test_mdlm_checkpoints.py \
	tests/test_dit.py tests/test_tokenization.py tests/test_evaluation.py tests/test_prompts.py

.PHONY: help demo test test-transformers-4 check format clean

help:
	@echo "make demo    sample the bundled models under six schedules (2.5 minutes on two cores) and write ./demo-output"
	@echo "make test    run the tests (CPU, no network)"
	@echo "make test-transformers-4  run those that depend on transformers with the oldest one supported"
	@echo "make check   format, lint and type checks"
	@echo "make format  apply the formatter"
	@echo "make clean   remove the virtual environment and caches"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Understudy needs Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,ray,dev]'
	@touch $@

$(OLD_STAMP): pyproject.toml constraints-4.txt
	$(PYTHON) -m venv --clear $(OLD_VENV)
	$(OLD_VENV)/bin/python -m pip install --quiet --constraint constraints-4.txt torch
	$(OLD_VENV)/bin/python -m pip install --quiet --constraint constraints-4.txt --editable '.[all]' pytest pytest-xdist hypothesis
	@touch $@

demo: $(STAMP)
	$(BIN)/understudy demo --output demo-output

test: $(STAMP)
	$(BIN)/$(PYTEST)

test-transformers-4: $(OLD_STAMP)
	$(OLD_VENV)/bin/$(PYTEST) $(OLD_TESTS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLD_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
