# Everything runs in ./.venv; nothing is installed anywhere else. `make help` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
IS_RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
BIN := .venv/bin
PY := $(BIN)/python
JOBS ?= 2
INSTALL_SECONDS ?= 1800
PRESET ?= quick
NOTEBOOK := book/03_replay_sweep.ipynb
EXECUTED := book/runs/$(PRESET).ipynb
PAGE := book/_build/html/runs/$(PRESET).html

.PHONY: help setup check test test-newest book reproduce bench faults gpu-check clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | while IFS='	' read -r target what; do \
		printf '%-10s %s\n' "$$target" "$$what"; done

# .venv/installed holds what was installed last (a checksum) and where, so that an unchanged folder installs nothing
# and a copied or moved one installs itself again.
setup:  ## make .venv and install the pinned packages into it (skipped while nothing changed)
	@stamp="$$(cat pyproject.toml constraints.txt | cksum) $$(pwd)"; \
	if [ "$$(cat .venv/installed 2>/dev/null)" = "$$stamp" ]; then echo "setup: .venv is up to date"; exit 0; fi; \
	if ! "$(PYTHON)" -c '$(IS_RIGHT)' 2>/dev/null; then \
		echo "setup: Python 3.11 is needed (or 3.12, 3.13), and '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1 || echo missing)." \
			"Install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	set -e; \
	echo "setup: installing into .venv (a few minutes, about 3.5 GB)"; \
	if [ ! -x $(PY) ]; then "$(PYTHON)" -m venv .venv; fi; \
	$(PY) -m pip install --quiet --constraint constraints.txt setuptools; \
	$(PY) -m pip install --constraint constraints.txt --no-build-isolation --editable '.[all,dev]'; \
	$(PY) -m pip install --constraint constraints.txt --no-deps nuscenes-devkit; \
	echo "$$stamp" > .venv/installed

check: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Much of a test is not numerical work: two files at a time, a thread each.
test: setup  ## the fast tests, JOBS=2 at a time; SLOW=1 adds the slow and optional ones, and requires them
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What everything else rests on. All fast tests with another Python: make test PYTHON=python3.13, in a clone of its own.
NEWEST_TESTS := tests/test_mixture.py tests/test_sampler.py tests/test_buckets.py tests/test_spec.py tests/test_frozen.py \
	tests/test_shipped_weights.py tests/test_catalogue.py tests/data tests/util
NEEDED := import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["dependencies"], *project["optional-dependencies"]["worlds"], sep="\n")
test-newest:  ## the fast tests of mixing, data and specs on the newest other Python (3.12, 3.13) here, in .venv-newest
	@python="$$(tests/helpers/other_pythons.sh | head -n 1)"; \
	if [ -z "$$python" ]; then echo "test-newest: neither Python 3.12 nor 3.13 is here"; exit 0; fi; \
	stamp="$$(cat pyproject.toml constraints.txt | cksum) $$python"; \
	if [ "$$(cat .venv-newest/installed 2>/dev/null)" != "$$stamp" ]; then \
		rm -rf .venv-newest && "$$python" -m venv .venv-newest; \
		if ! "$$python" -c '$(NEEDED)' | timeout $(INSTALL_SECONDS) .venv-newest/bin/python -m pip install --quiet --constraint constraints.txt \
			--only-binary :all: --no-compile --requirement /dev/stdin pytest pytest-timeout pytest-xdist hypothesis torchdata; then \
			echo "test-newest: the packages cannot be installed for $$python within $(INSTALL_SECONDS) s (make $@ INSTALL_SECONDS=3600)"; rm -rf .venv-newest; exit 0; fi; \
		echo "$$stamp" > .venv-newest/installed; fi; \
	.venv-newest/bin/python --version && \
	SLOW=0 OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(JOBS) --dist loadfile $(NEWEST_TESTS)

# -W: a notebook that fails is an error, not a warning.
book: setup  ## build the report from what is there; trains nothing
	$(BIN)/jupyter-book build book -W -n --keep-going

reproduce: setup  ## fine-tune the replay sweep, PRESET=quick, on this machine (minutes on two cores), build the book
	@echo "reproduce: $(NOTEBOOK) with preset $(PRESET) fine-tunes the shipped base model at several replay fractions,"
	@echo "reproduce: or reads the runs that are already in book/runs/store; then the book is built, in about a minute."
	$(PY) -m papermill $(NOTEBOOK) $(EXECUTED) -p preset $(PRESET) -p cluster local --log-output --no-progress-bar
	$(BIN)/jupyter-book build book -W -n --keep-going
	@found="$$($(PY) -m replaylab sweep --preset $(PRESET) --headline)" && echo "open $(PAGE): $$found"

bench: setup  ## measure speed on this machine
	$(PY) tests/benchmarks/bench.py
	$(PY) -u tests/benchmarks/bench_training.py
	$(PY) -u tests/benchmarks/bench_sweep.py

faults: setup  ## the campaign of faults: bad input, hostile names, full disks, power failures, flipped bits; prints how each kind ended
	OMP_NUM_THREADS=1 $(PY) tests/helpers/fault_campaign.py

gpu-check: setup  ## what needs a CUDA device: run it on a machine that has one (it skips itself elsewhere)
	$(PY) -m pytest -m gpu $$(grep -rl --include='test_*.py' 'mark\.gpu' tests)

clean:  ## remove the built book and caches; keeps .venv and book/runs
	rm -rf book/_build build .pytest_cache .mypy_cache .ruff_cache .hypothesis replaylab.egg-info
	find replaylab tests -name __pycache__ -type d -prune -exec rm -rf {} +
