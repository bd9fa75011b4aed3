# `make help` lists the targets. Everything is installed into .venv from requirements.lock; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested
TEST_ONLY := $(shell sed -n 's/==.*//p' requirements-test.lock)

# Threads that wait by spinning fight over the cores as soon as another process has work: a fit of 20 seconds then took
# minutes. Waiting asleep costs a quarter on a machine that does nothing else.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo demo-llm browser test test-slow bench lint lock clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(READY)  ## Compress a real sentence encoder, its table alone and all of it, and show what it cost (minutes)
	$(BIN)/python examples/demo.py --output demo-output

demo-llm: $(READY)  ## Compress the tied table of a small language model at three sizes, and show what it then says (minutes)
	$(BIN)/python benchmarks/real_models/get.py smollm2
	$(BIN)/python examples/demo_llm.py --output demo-llm-output

browser: $(READY)  ## Search by meaning in a browser, with a compressed model (needs npm): http://localhost:8000
	test -d examples/browser/model || $(BIN)/python examples/browser/make_model.py
	npm ci --prefix examples/browser
	$(BIN)/python -m http.server --directory examples/browser --bind 127.0.0.1 8000

test: $(TESTED) lint  ## Lint, types, and the tests that need neither network nor GPU
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(TESTED)  ## Also the tests that take minutes
	$(BIN)/python -m pytest -m "slow or not slow"

bench: $(READY)  ## Write benchmarks/results and the tables made of them (reads ../shared/data; hours; goes on where it stopped)
	$(BIN)/python benchmarks/bench.py all
	$(BIN)/python benchmarks/sts.py
	$(BIN)/python benchmarks/lighttoken.py
	$(BIN)/python benchmarks/kronecker.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/tcq.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/domains.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/trellis.py
	$(BIN)/python benchmarks/words.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/dryrun.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/runtimes.py
	-$(BIN)/python benchmarks/gpu.py  # where there is one
	$(BIN)/python benchmarks/tied_heads.py
	$(BIN)/python benchmarks/tied_weights.py
	$(BIN)/python benchmarks/combination.py
	$(BIN)/python benchmarks/architectures.py
	$(BIN)/python benchmarks/kroneckerbert.py --preset kronecker-8x --ablations
	$(BIN)/python benchmarks/kroneckerbert.py --preset kronecker-20x --ablations
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/speed_page.py

lint: $(TESTED)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lock: $(READY)  ## Write requirements.lock from what is installed
	( echo "# Exact versions of everything that \`make\` installs: the library, its development tools and the sample model."; \
	  echo "# Made by \`make lock\` from a virtual environment in which the tests pass."; \
	  $(BIN)/pip freeze --exclude-editable $(addprefix --exclude ,$(TEST_ONLY)) | sed 's/+cpu$$//' ) > requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(READY) $(TESTED)

clean:  ## Remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo-output demo-llm-output

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

$(TESTED): requirements-test.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.lock
	touch $@
