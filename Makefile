# Needs Python 3.11 or newer and make. Everything else is installed into .venv from constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
TESTERS ?= 2
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve demo test lint bench-ablation bench-detect bench-dng bench-downstream bench-factory bench-fidelity bench-model bench-noise bench-reader bench-scale bench-scale-model bench-schedule chaos figures pictures clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=/path/to/python3.11 chooses the interpreter; VENV=folder chooses where to install; TESTERS=4 runs more tests at once."

serve: $(STAMP)  ## Prefect server, work pool and worker here, with all deployments registered; ctrl-C stops it
	@$(BIN)/aura server --deployments

demo: $(STAMP)  ## make a RAW dataset from real photographs under demo-data/ (run again: finds it done)
	@$(BIN)/aura demo

test: $(STAMP) lint  ## style, types, import rules and all tests
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## style, types and import rules only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-fidelity: $(STAMP)  ## measure the inverses against real RAW files, print the table, write benchmarks/results/
	$(BIN)/python benchmarks/fidelity.py

bench-noise: $(STAMP)  ## what each inverse leaves of a photograph's own noise (the RAW files of AURA_DATA)
	$(BIN)/python benchmarks/photograph_noise.py

bench-ablation: $(STAMP)  ## train AURA without each of its parts, and the published network; judge them side by side
	$(BIN)/python benchmarks/ablation.py

bench-scale: $(STAMP)  ## memory for a million photographs, memory and scheduling cost over twenty thousand shards
	$(BIN)/python -m benchmarks.plan_scale

bench-scale-model: $(STAMP)  ## cost against workers: a closed form beside the dispatcher in virtual time, a billion images
	$(BIN)/python -m benchmarks.scale_model

chaos: $(STAMP)  ## kill what makes a dataset at random moments, and compare; writes benchmarks/results/chaos.json
	$(BIN)/python -m benchmarks.chaos

bench-schedule: $(STAMP)  ## let cron start the nightly run twice; writes benchmarks/results/schedule.json
	$(BIN)/python -m benchmarks.schedule

bench-factory: $(STAMP)  ## megapixels per second from JPEG on S3 to a dataset on S3, beside the network alone and a plain loop
	PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/factory.py

bench-reader: $(STAMP) build/peers/.installed  ## crops per second beside litdata, mosaicml-streaming and webdataset, on disk and S3
	PYTHONPATH=$(CURDIR):$(CURDIR)/build/peers $(BIN)/python benchmarks/reader.py

build/peers/.installed: benchmarks/peers.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target build/peers -r benchmarks/peers.txt
	@touch $@

bench-detect: $(STAMP)  ## train a detector on packed RAW of annotated photographs, and score it in bright and low light
	$(BIN)/python -m benchmarks.detection

bench-dng: $(STAMP)  ## mean CIEDE2000 of DNG files in raw developers against their photographs
	$(BIN)/python benchmarks/dng.py

bench-downstream: $(STAMP)  ## train one denoiser on each kind of RAW, judge all on real RAW files
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.downstream

bench-model: $(STAMP)  ## speed, precision and memory of the network, beside the published one
	$(BIN)/python benchmarks/model.py

figures: $(STAMP)  ## quote the benchmarks' figures anew in README.md and docs/scale.md
	$(BIN)/python -m docs.quote_figures

pictures: $(STAMP)  ## take the README's pictures anew: a run in the Prefect UI and its report (needs chromium)
	$(BIN)/python -m docs.take_pictures

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) demo-data

# venv and pip can both be run again over a half-made environment; the stamp is written last.
$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3.11 or python3 was found; install Python 3.11 or pass PYTHON=/path/to/python." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; pass PYTHON=/path/to/python3.11." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV): a few minutes the first time."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m aura.precompile
	@touch $@
