# make demo   what the shipped checkpoint says about ten pictures that it has never seen
# make test   linters, types, and the tests on both supported transformers
# make lint, make format, make checkpoint-code, make clean
PYTHON ?= python3
TRANSFORMERS5 := .venv
TRANSFORMERS4 := .venv-transformers4
HUB5 := .venv-hub5
HUB4 := .venv-hub4
TORCHAO := .venv-torchao
BIN := $(TRANSFORMERS5)/bin
# The models of the tests are tiny: more threads only wait for each other.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-transformers5 test-transformers4 lint types format clean environments checkpoint-code

demo: $(TRANSFORMERS5)/.installed
	$(BIN)/lion demo --output demo.png

# One process has little use for a second core: both versions are tested side by side.
test:
	$(MAKE) --jobs=2 environments
	$(MAKE) lint types
	$(MAKE) --jobs=2 test-transformers5 test-transformers4

environments: $(TRANSFORMERS5)/.installed $(TRANSFORMERS4)/.installed $(HUB5)/.installed $(HUB4)/.installed \
	$(TORCHAO)/.installed

test-transformers5: environments
	PYTHONPATH=$(TORCHAO) $(BIN)/python -m pytest tests/modeling_lion/test_quantization.py -k torchao
	LION_HUB_PYTHON_V4=$(abspath $(HUB4))/bin/python LION_HUB_PYTHON_V5=$(abspath $(HUB5))/bin/python $(BIN)/python -m pytest

test-transformers4: environments
	PYTHONPATH=$(TORCHAO) $(TRANSFORMERS4)/bin/python -m pytest tests/modeling_lion/test_quantization.py -k torchao
	$(TRANSFORMERS4)/bin/python -m pytest

lint: $(TRANSFORMERS5)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(TRANSFORMERS5)/.installed
	$(BIN)/mypy

format: $(TRANSFORMERS5)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The code files of the shipped checkpoints, generated from the packages.
checkpoint-code: $(TRANSFORMERS5)/.installed
	$(BIN)/python -m laboratory.checkpoint_code

# Everything, on transformers 5 and on transformers 4; versions stand in pyproject.toml.
$(TRANSFORMERS5)/.installed: EXTRAS := train,evaluation,quantization,dev,transformers5
$(TRANSFORMERS4)/.installed: EXTRAS := train,evaluation,quantization,dev,transformers4
$(TRANSFORMERS5)/.installed $(TRANSFORMERS4)/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $@

# One after the other: both write beside the code what setuptools knows of it.
$(TRANSFORMERS4)/.installed: | $(TRANSFORMERS5)/.installed

# Only what somebody has who loads a checkpoint from the Hub: no package of this repository, none of its extras.
$(HUB5)/.installed: PACKAGES = Pillow $(shell $(PYTHON) tests/lion_multimodal/hub/versions.py transformers5)
$(HUB4)/.installed: PACKAGES = Pillow $(shell $(PYTHON) tests/lion_multimodal/hub/versions.py transformers4)
$(HUB5)/.installed $(HUB4)/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

# Beside the others: wherever transformers finds torchao, it imports it.
$(TORCHAO)/.installed: pyproject.toml $(TRANSFORMERS5)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) "$(shell $(PYTHON) tests/lion_multimodal/hub/versions.py torchao)"
	touch $@

clean:
	rm -rf $(TRANSFORMERS5) $(TRANSFORMERS4) $(HUB5) $(HUB4) $(TORCHAO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
