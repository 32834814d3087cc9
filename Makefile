# Loupe's commands. Each one sets up .venv by itself; from the second call on that costs nothing.
#   make demo    the chat, in the browser (PORT=7860)
#   make test    format and lint, types, tests (a browser test too, where there is a browser)
#   make help    the rest

PYTHON ?= python3
PORT ?= 7860
ARGS ?=
SOURCE ?= ../shared/data
# The tests' models are tiny: one thread each is fastest, and gives the same numbers everywhere.
TEST_THREADS ?= 1
# The files are shared out among so many processes: one for each core, 8 at most; 0 for none.
TEST_PROCESSES ?= auto
# How long `make fuzz` goes on, and the number of its first case.
MINUTES ?= 10
SEED ?= 100000

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test check lint format types unit fuzz embedded photos benchmark setup setup-dev
.PHONY: clean
.DEFAULT_GOAL := help

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.photos  ## open the chat (PORT=7860, ARGS="--model ...")
	$(BIN)/loupe chat --port $(PORT) $(ARGS)

test: lint types unit  ## everything a change must pass

check: lint types  ## the quick half of `make test`

lint: $(VENV)/.installed-dev  ## format and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed-dev  ## format, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.installed-dev  ## mypy on qformer/ and adapters/
	$(BIN)/mypy

unit: $(VENV)/.installed-dev  ## the tests alone (ARGS="-k region -x", ARGS="-m 'not slow'")
	OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest \
	  -n $(TEST_PROCESSES) --maxprocesses 8 --dist loadfile $(ARGS)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	  || command -v google-chrome >/dev/null || { \
	  echo; \
	  echo "**** NO BROWSER HERE: the chat was not tested in one. Install chromium and run this again. ****"; }

fuzz: $(VENV)/.installed-dev  ## feed it what is broken, at random (MINUTES=10 SEED=100000)
	LOUPE_FUZZ_MINUTES=$(MINUTES) LOUPE_FUZZ_SEED=$(SEED) OMP_NUM_THREADS=$(TEST_THREADS) \
	  $(BIN)/python -m pytest tests/fuzz -q -s $(ARGS)

embedded: $(VENV)/.installed-dev  ## retrain the embedded default from its seed; resumes when killed
	$(BIN)/loupe train embedded $(ARGS)

photos: $(VENV)/.installed-dev  ## retrain the photo default from public data (SOURCE=FOLDER, laid out as docs/photos.md says)
	$(BIN)/loupe setup photos
	$(BIN)/loupe data photos $(SOURCE) --out runs/photos/data
	$(BIN)/python -m train.photos.start --classes $(SOURCE)/photos/imagenet/index.jsonl
	$(BIN)/loupe train photos-stage1 --resume auto
	$(BIN)/loupe train photos-notes --resume auto
	$(BIN)/loupe train photos --resume auto
	$(BIN)/python -m train.photos.pack runs/photos/answers/checkpoint --images $(SOURCE)
	$(BIN)/python -m train.photos.calibrate adapters/photos/loupe --images $(SOURCE)

benchmark: $(VENV)/.installed-dev  ## measure the bridge side by side, as ratios
	$(BIN)/python -m benchmarks.qformer
	$(BIN)/python -m benchmarks.ask

setup: $(VENV)/.photos  ## install what the chat needs, and stop
setup-dev: $(VENV)/.installed-dev  ## install what tests and training need, and stop

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info

# A stamp is written last, so that an interrupted install is done again.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Loupe needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot create virtual environments: its venv module is missing."; \
	  echo "On Debian and Ubuntu: apt-get install python3-venv; then run make again."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for the chat: a minute or two, once."
	$(PIP) install --quiet -c constraints.txt -e ".[demo,photos]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Setting up $(VENV) for tests and training: a minute or two, once."
	$(PIP) install --quiet -c constraints.txt -e ".[demo,photos,train,quantize,test]"
	@touch $@ $(VENV)/.installed-demo

# The pretrained parts of the photos' model. Without them the chat opens on paintings, and the next
# call tries again.
$(VENV)/.photos: $(VENV)/.installed-demo adapters/packages.py
	@$(BIN)/loupe setup photos && touch $@ || true
