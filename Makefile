# make demo   set up everything and label the sample photos
# make cover  draw docs/images/cover.png; with CHECKPOINTS=/data/checkpoints from real weights
# make docs   build the documentation as a site in site/, strictly
# make test   set up everything and run the tests; make nightly those that take long
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a machine without GPU: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# spares the download of CUDA.
PIP_FLAGS ?=
TORCH := torch==2.14.1 torchvision==0.29.1
DEMO_MODELS := checkpoints/demo

.PHONY: demo cover docs test nightly lint audit format clean

demo: $(VENV)/installed
	@$(BIN)/python -m sapiens_ray.demo $(DEMO_MODELS)
	@$(BIN)/sapiens-ray run configs/demo.yaml
	@echo
	@echo "The demo models have random weights: their labels mean nothing. README, 'Real weights', says where to get real ones."

cover: $(VENV)/installed
	@$(BIN)/python docs/images/make_cover.py $(if $(CHECKPOINTS),--checkpoints "$(CHECKPOINTS)")

# Without --quiet, which would silence the warnings that --strict counts.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests

nightly: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests -m "nightly or hypothesis" --hypothesis-profile=new
	$(BIN)/python -m tests.faults.chaos --kills 50 --seed $$$$
	$(BIN)/python -m tests.fuzz --minutes 30 --seed $$$$

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

audit: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --skip-editable

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs checkpoints/demo site

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "sapiens_ray needs Python 3.11 or later; say which: make demo PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml
	@echo "installing torch, Ray and the rest into $(VENV): up to some GB, which takes a while"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(TORCH) -e .
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(TORCH) -e '.[docs]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(TORCH) -e '.[dev]'
	@touch $@
