# make train   sets everything up, trains (several gossiping learners on MinAtar Breakout), evaluates, says where things are
# make test    sets everything up, then lints, checks types and runs the tests; make test-long adds the longest few
# make coverage runs the tests of make test, and says which lines and branches none of them reaches (coverage/index.html)
# make docs    sets everything up, then builds the documentation into site/, to be read without a network
# make wheels  tries what a user installs, the wheel in a bare environment, with each Python that is here; some minutes
# make mutants changes the code one place at a time, and prints the changes that no test notices; it takes an hour or more
# All create .venv on the first call only. Another task: make train PRESET=mujoco/halfcheetah ARGS="steps=2e6"
# Other Pythons: make wheels ARGS="python3.12 /path/to/python3.13"

# Where the environment forbids Python to keep what it compiled, each process of a test would compile gala anew.
unexport PYTHONDONTWRITEBYTECODE

PRESET ?= minatar/breakout
ARGS ?=
EXTRAS := atari,mujoco,minatar,cluster,supervised,video,plot,sweep,hub,docs,dev

# The first Python on the path that is new enough. Override with make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
STAMP := .venv/installed
RUN := $(or $(patsubst run=%,%,$(lastword $(filter run=%,$(ARGS)))),runs/$(subst /,-,$(PRESET))-$(shell date +%Y%m%d-%H%M%S))

.PHONY: train test pytest test-long coverage lint docs wheels mutants clean
.DEFAULT_GOAL := train

train: $(STAMP)
	$(BIN)/gala train preset=$(PRESET) run=$(RUN) $(ARGS)
	$(if $(filter --dry-run --help,$(ARGS)),,$(BIN)/gala eval $(RUN))

test: lint pytest

# Two workers to a core: much of a test is waiting for processes that start and end.
# Collected by one first: four that start with nothing compiled would each compile the same, 14 s of a core.
pytest: $(STAMP)
	@test -d tests/__pycache__ || $(BIN)/python -m pytest --collect-only --quiet > /dev/null || true
	$(BIN)/python -m pytest -n 4 -m "not long"

test-long: lint
	$(BIN)/python -m pytest -n 4

coverage: $(STAMP)
	$(BIN)/python -m pytest -n 4 -m "not long" --cov --cov-report=term --cov-report=html

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not --quiet: with it, warnings are not counted, and --strict passes all.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict --clean
	@echo "read site/index.html"

wheels: $(STAMP)
	$(BIN)/python tests/wheels.py $(ARGS)

mutants: $(STAMP)
	$(BIN)/python benchmarks/mutants.py $(ARGS)

# Not compiled: Python compiles what is imported, once, and that is the smaller part.
# torch first and by itself: its build (CPU, CUDA) is then the one that pip is set up to prefer, see docs/howto/install.md.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "gala needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf .venv
