# make demo   what the shipped checkpoint says about ten images that it has never seen
# make test   linters, types, and the tests on every supported version of transformers
# make test-ray  `lion predict --ray` on a local cluster
# make test-browser   the page of lion app in Chromium; make screenshots draws its pictures for the documentation
# make lint, make types, make docs, make format, make checkpoint-code, make clean
PYTHON ?= python3
# The full test suite runs on the newest releases and on the last transformers 4; the smoke tests run on the others.
NEWEST := .venv
TRANSFORMERS4 := .venv-transformers4
TRANSFORMERS50 := .venv-transformers50
LOWEST := .venv-lowest
# Only what the package itself needs, without any extra: for the wheel, and for checkpoints loaded from the Hub.
CORE_NEWEST := .venv-hub5
CORE_TRANSFORMERS4 := .venv-hub4
CORE_TRANSFORMERS50 := .venv-transformers50-core
CORE_LOWEST := .venv-lowest-core
CORE := $(CORE_NEWEST) $(CORE_TRANSFORMERS4) $(CORE_TRANSFORMERS50) $(CORE_LOWEST)
QUANTIZATION := .venv-quantization
RAY := .venv-ray
APP := .venv-app
FULL := $(NEWEST) $(TRANSFORMERS4)
SMALL := $(TRANSFORMERS50) $(LOWEST)
BIN := $(NEWEST)/bin
# The models of the tests are tiny: more threads only wait for each other.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-browser screenshots test-newest test-newest-library test-newest-rest test-transformers4 test-transformers4-rest test-smoke test-ray lint types docs format clean environments checkpoint-code

demo: $(NEWEST)/.installed
	$(BIN)/lion demo --output demo.png

# One process has little use for a second core: two things are done side by side.
test:
	$(MAKE) --jobs=2 environments
	$(MAKE) --jobs=2 --keep-going test-newest-rest test-newest-library test-transformers4 test-smoke lint types docs

environments: $(patsubst %,%/.installed,$(FULL) $(CORE) $(SMALL) $(QUANTIZATION))

QUANTIZED := tests/modeling_lion/test_quantization.py tests/trainers/test_quantized_training.py \
	"tests/docs/test_python_blocks.py::test_python_blocks_run[docs/full_size.md]"
empty :=
CORE_PYTHONS = LION_HUB_PYTHON_V4=$(abspath $(CORE_TRANSFORMERS4))/bin/python \
	LION_HUB_PYTHON_V5=$(abspath $(CORE_NEWEST))/bin/python \
	LION_CORE_PYTHONS=$(subst $(empty) ,:,$(patsubst %,$(abspath .)/%/bin/python,$(CORE)))
# What a user of the library meets first, and everything else: halves that take equally long.
LIBRARY := $(addprefix tests/,configuration_lion processing_lion modeling_lion trainers)

test-newest: test-newest-library test-newest-rest

test-newest-library: environments
	PYTHONPATH=$(QUANTIZATION) $(BIN)/python -m pytest $(QUANTIZED)
	$(CORE_PYTHONS) $(BIN)/python -m pytest $(LIBRARY)

test-newest-rest: environments
	$(CORE_PYTHONS) $(BIN)/python -m pytest tests $(addprefix --ignore=,$(LIBRARY))

# Of the trainers, what reads data and what divides work among processes.
OWN := sources test_datasets.py test_distributed.py test_row_formats.py test_sharded.py test_streams.py test_tagging.py \
	test_tagging_processes.py
# What transformers has a part in. All else goes through it and is tested on the newest (where the tests of the Hub load
# what they push on both); `make test-transformers4-rest` tests it here.
test-transformers4: environments
	PYTHONPATH=$(QUANTIZATION) $(TRANSFORMERS4)/bin/python -m pytest $(QUANTIZED)
	$(TRANSFORMERS4)/bin/python -m pytest $(LIBRARY) $(addprefix --ignore=tests/trainers/,$(OWN))

test-transformers4-rest: environments
	$(TRANSFORMERS4)/bin/python -m pytest $(addprefix tests/trainers/,$(OWN))
	$(TRANSFORMERS4)/bin/python -m pytest tests $(addprefix --ignore=,$(LIBRARY) $(addprefix tests/,laboratory packaging))

# Parity and generation, saving and loading, the pipelines, training.
SMOKE := tests/modeling_lion/test_lion_parity.py tests/modeling_lion/test_pipeline.py tests/processing_lion/test_saving.py \
	tests/trainers/test_sft_trainer.py
test-smoke: $(patsubst %,smoke-%,$(SMALL))

smoke-%: %/.installed
	$*/bin/python -m pytest $(SMOKE)

# Not part of `test`, for its size.
test-ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest tests/lion_multimodal/prediction/test_ray.py
# What needs Gradio, and what needs a browser besides.
test-browser: $(APP)/.installed
	$(APP)/bin/python -m pytest tests/lion_multimodal/app/test_page.py tests/lion_multimodal/app/test_space.py tests/browser

screenshots: $(APP)/.installed
	LION_SCREENSHOTS=docs/images $(APP)/bin/python -m pytest tests/browser

lint: $(NEWEST)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Every page, without a warning.
docs: $(NEWEST)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(NEWEST)/site

types: $(NEWEST)/.installed
	$(BIN)/mypy

format: $(NEWEST)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The code files of the shipped checkpoints, generated from the packages.
checkpoint-code: $(NEWEST)/.installed
	$(BIN)/python -m laboratory.checkpoint_code

# Ranges stand in pyproject.toml, the versions that the tests run with in constraints/. Compiling all that is installed
# would cost more than it saves.
PIP = $(@D)/bin/python -m pip install --quiet --no-compile --constraint $(VERSIONS)
REQUIREMENTS = $(PYTHON) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	print(*p['dependencies'], *p['optional-dependencies'].get('$(1)', []), sep='\n')" >$(@D)/requirements.txt
$(NEWEST)/.installed $(CORE_NEWEST)/.installed: VERSIONS := constraints/newest.txt
$(TRANSFORMERS4)/.installed $(CORE_TRANSFORMERS4)/.installed: VERSIONS := constraints/transformers-4.57.txt
$(TRANSFORMERS50)/.installed $(CORE_TRANSFORMERS50)/.installed: VERSIONS := constraints/transformers-5.0.txt
$(LOWEST)/.installed $(CORE_LOWEST)/.installed: VERSIONS := constraints/lowest.txt
$(patsubst %,%/.installed,$(FULL) $(CORE) $(SMALL)): pyproject.toml $(wildcard constraints/*.txt)

# On top of a core environment, whose torch and transformers are seen from here.
SEE_BELOW = for site in $(@D)/lib/python*/site-packages; do \
	ls -d $(addsuffix /lib/python*/site-packages,$(abspath $(BELOW))) >$$site/below.pth; done
$(NEWEST)/.installed: BELOW := $(CORE_NEWEST)
$(APP)/.installed $(RAY)/.installed: BELOW = $(NEWEST) $(CORE_NEWEST)
$(NEWEST)/.installed: MORE := ,docs
$(NEWEST)/.installed: $(CORE_NEWEST)/.installed
$(TRANSFORMERS4)/.installed: BELOW := $(CORE_TRANSFORMERS4)
$(TRANSFORMERS4)/.installed: $(CORE_TRANSFORMERS4)/.installed
$(patsubst %,%/.installed,$(FULL)):
	$(PYTHON) -m venv $(@D)
	$(SEE_BELOW)
	$(PIP) --editable ".[train,evaluation,serve,dev$(MORE)]"
	touch $@

# One after the other: both write beside the code what setuptools knows of it.
$(TRANSFORMERS4)/.installed: | $(NEWEST)/.installed

# What somebody has who installed the package, or loads a checkpoint from the Hub: the requirements without the package.
$(patsubst %,%/.installed,$(CORE)):
	$(PYTHON) -m venv $(@D)
	$(call REQUIREMENTS)
	$(PIP) --requirement $(@D)/requirements.txt
	touch $@

# What training needs.
$(TRANSFORMERS50)/.installed: BELOW := $(CORE_TRANSFORMERS50)
$(LOWEST)/.installed: BELOW := $(CORE_LOWEST)
$(TRANSFORMERS50)/.installed: $(CORE_TRANSFORMERS50)/.installed
$(LOWEST)/.installed: $(CORE_LOWEST)/.installed
$(patsubst %,%/.installed,$(SMALL)):
	$(PYTHON) -m venv $(@D)
	$(SEE_BELOW)
	$(call REQUIREMENTS,train)
	$(PIP) --requirement $(@D)/requirements.txt pytest hypothesis
	touch $@

# Beside the others: wherever transformers finds torchao and PEFT finds bitsandbytes, they import them, for seconds.
$(QUANTIZATION)/.installed: $(NEWEST)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target $(@D) bitsandbytes torchao --constraint constraints/newest.txt
	touch $@

# On top of the newest environment, which stays as it is.
$(RAY)/.installed: $(NEWEST)/.installed pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(SEE_BELOW)
	$(call REQUIREMENTS,ray)
	$(@D)/bin/python -m pip install --quiet --no-compile --constraint constraints/newest.txt --requirement $(@D)/requirements.txt
	touch $@

# On top of the newest environment: Gradio needs Pillow 12.
$(APP)/.installed: $(NEWEST)/.installed pyproject.toml constraints/newest.txt
	$(PYTHON) -m venv $(@D)
	$(SEE_BELOW)
	$(call REQUIREMENTS,app)
	grep -v '^Pillow==' constraints/newest.txt >$(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/constraints.txt --requirement $(@D)/requirements.txt playwright
	touch $@

clean:
	rm -rf $(FULL) $(CORE) $(SMALL) $(QUANTIZATION) $(APP) $(RAY) .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
