# Two commands set everything up on a fresh machine with Python >= 3.10: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-nojit lint format bench bench-quality conformance docs wheel integrations test-tensorflow clean

help: ## list what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e ".[lint]"
	@touch $@

demo: $(VENV)/.base ## compress a real embedded model with every short recipe
	$(BIN)/milpasses demo

test: $(VENV)/.test ## the test suite with branch coverage, then the kernels again without the JIT
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered
	$(MAKE) test-nojit

test-nojit: $(VENV)/.test ## the kernels' tests with NUMBA_DISABLE_JIT=1
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/kernels

lint: $(VENV)/.lint ## ruff (format and lint), pyright in strict mode, the import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.lint ## let ruff rewrite the files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test ## speed, size and error against coremltools in the same run; writes out/bench
	$(BIN)/python -m bench

bench-quality: $(VENV)/.test ## error and accuracy of calibrated and mixed compression, against coremltools'
	$(BIN)/python -m bench --only quality calibrated budget tasks activations -o out/bench-quality

conformance: $(VENV)/.test ## coremltools' own test suites, run against milpasses
	$(BIN)/python tests/conformance/run.py

integrations: ## try milpasses in Ultralytics, ExecuTorch, transformers, TensorFlow: own environments in .integrations
	$(PYTHON) integrations/run.py

test-tensorflow: ## the TensorFlow tests, in an environment of their own (its wheels are for Python up to 3.11)
	$(PYTHON) integrations/run.py tensorflow
	.integrations/tensorflow/bin/python -m pytest -q --noconftest tests/test_tensorflow.py

docs: $(VENV)/.test ## run the code blocks of README.md
	$(BIN)/python -m pytest -q tests/test_readme.py

wheel: $(VENV)/.test ## build the wheel and try it in a clean virtual environment
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python scripts/check_wheel.py

clean: ## remove what was built
	find . -name "*.nb[ic]" -delete
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .coverage* bench/.cache
