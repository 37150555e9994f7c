# Two commands set everything up on a fresh machine with Python >= 3.10: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo fuzz test test-nojit lint format bench bench-quality conformance docs docs-test wheel release integrations test-tensorflow clean

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

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	@touch $@

demo: $(VENV)/.base ## compress a real embedded model with every short recipe
	$(BIN)/milpasses demo

# Two workers have a core each, which threads of torch would take from one another by waiting.
test test-nojit: export OMP_NUM_THREADS := 1

test: $(VENV)/.test ## the test suite with branch coverage, slow tests without, then the kernels again without the JIT
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term:skip-covered
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow -q
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
	$(BIN)/python -m bench --only quality calibrated budget tasks activations tuning -o out/bench-quality

SECONDS ?= 600
FIRST ?=
fuzz: $(VENV)/.test ## random programs and damaged models, for SECONDS=600 from seed FIRST= on; or ONE=program:123 again
	$(BIN)/python tests/fuzz/fuzz.py $(if $(ONE),--one $(ONE),--seconds $(SECONDS) $(if $(FIRST),--first $(FIRST)))

conformance: $(VENV)/.test ## coremltools' own test suites, run against milpasses
	$(BIN)/python tests/conformance/run.py

integrations: ## try milpasses in Ultralytics, ExecuTorch, transformers, TensorFlow: own environments in .integrations
	$(PYTHON) integrations/run.py

test-tensorflow: ## the TensorFlow tests, in an environment of their own (its wheels are for Python up to 3.11)
	$(PYTHON) integrations/run.py tensorflow
	.integrations/tensorflow/bin/python -m pytest -q --noconftest tests/test_tensorflow.py

docs: $(VENV)/.docs ## build the site into out/site, strictly and without a network connection
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "out/site/index.html"

docs-test: $(VENV)/.test ## run every code block of README.md, of the site and of examples/
	$(BIN)/python -m pytest -q tests/test_readme.py tests/test_site.py tests/test_examples.py

wheel: $(VENV)/.test ## build the wheel and try it in a clean virtual environment
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python scripts/check_wheel.py

release: $(VENV)/.test ## check version, changelog and checkout, build into dist, and say what is left to do
	$(BIN)/python -m pip install --quiet build twine
	$(BIN)/python scripts/release.py

clean: ## remove what was built
	find . -name "*.nb[ic]" -delete
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .coverage* bench/.cache
