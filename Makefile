# Everything a newcomer types. Needs python3 (3.11 or newer) and make; all else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-tasks demo-pixels test check lint types bench torch test-beam clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime  ## minutes on a CPU: draws the data, trains ViLBERT on it, writes pictures of what it learned
	$(BIN)/python experiments/pretrain.py --config=configs/tiny.py

demo-tasks: $(VENV)/.runtime  ## about an hour on 4 cores: pre-trains, fine-tunes every task three ways, prints one table
	$(BIN)/python experiments/ablate.py --config=configs/demo_tasks.py

# "$$" is for the shell: where the recipes look for data.
STORES := "$${TFDS_DATA_DIR:-$$HOME/tensorflow_datasets}"/region_features
EXTRACT = $(BIN)/python experiments/extract_features.py --weights=runs/detector_scenes/detector.safetensors \
	--images=TFDS:scenes/pictures_small --batch_size=8

demo-pixels: $(VENV)/.runtime  ## about 40 minutes on 4 cores: trains a detector on pictures, ViLBERT on its regions, and scores both
	$(BIN)/python experiments/train_detector.py --config=configs/detector_scenes.py
	$(EXTRACT) --boxes=5-12 --output=$(STORES)/scenes_detected
	$(EXTRACT) --given_boxes=TFDS:scenes/objects_small --output=$(STORES)/scenes_given
	$(BIN)/python experiments/ablate.py --config=configs/pixels.py

test: $(VENV)/.dev  ## all tests; no network, no accelerator
	$(BIN)/python -m pytest -n auto --dist loadfile

check: lint types test  ## what a change must pass

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

torch: $(VENV)/.dev  ## adds torch to the environment: `make test` then compares with it too
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-torch.txt

test-beam: $(VENV)/beam/.dev  ## data sets built on Apache Beam, in an environment of their own: it holds packages at older versions
	$(VENV)/beam/bin/python -m pytest -n auto tests/builders/test_beam.py

bench: $(VENV)/.runtime  ## timings of benchmarks/README.md, on this machine: under ten minutes on 4 cores; with PyTorch after `make torch`
	$(BIN)/python benchmarks/cpu.py

clean:  ## removes what make made; runs/ and data sets stay
	rm -rf $(VENV) .cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/beam/.dev: $(BIN)/python pyproject.toml requirements.txt requirements-dev.txt requirements-import.txt requirements-beam.txt
	$(PYTHON) -m venv $(VENV)/beam
	$(VENV)/beam/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
	    --requirement requirements-dev.txt --requirement requirements-import.txt --requirement requirements-beam.txt
	touch $@

$(VENV)/.runtime: $(BIN)/python pyproject.toml requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt requirements-import.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --requirement requirements-dev.txt --requirement requirements-import.txt
	touch $@
