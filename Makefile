# Every target does its own set-up: `make demo` or `make test` may be the first command typed.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO := demo

.PHONY: setup demo thesis test soak lint bench lock clean

setup: .venv/installed

.venv/installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' is not Python 3.11, which tensorflow 2.15 and tensorflow-addons need; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/python -m ixi_tfds cohort --output_dir=$(DEMO)/scans --subjects=24
	$(BIN)/python -m beam_preprocess --source_dir=$(DEMO)/scans --data_dir=$(DEMO)/data \
	  --config=demo --in_plane=256x256 --size=192x192 --slices=66:86
	$(BIN)/python -m trainer --data_dir=$(DEMO)/data --dataset=ixi_t1/demo --workdir=$(DEMO)/run \
	  --model=small_resnet --loss=mse --optimizer=adam --batch_size=4 --epochs=12
	$(BIN)/python -m evaluator --data_dir=$(DEMO)/data --dataset=ixi_t1/demo --split=test \
	  --saved_model=$(DEMO)/run/export/small_resnet --output_dir=$(DEMO)/report
	@echo "Look at $(DEMO)/report/report.html (the scores) and $(DEMO)/data/ixi_t1/demo/1.0.0/quality.html (the data)."

# The thesis's twelve runs: make thesis DATA_DIR=datasets [FLAGS="--epochs=30"]
RUNS ?= runs/thesis
thesis: setup
	@test -n "$(DATA_DIR)" || { echo "error: say where the datasets are: make thesis DATA_DIR=..." >&2; exit 2; }
	$(BIN)/python -m trainer.thesis --data_dir=$(DATA_DIR) --workdir=$(RUNS) $(FLAGS)

test: setup
	$(BIN)/python -m pytest

# Kills at many more moments than `make test` tries: make soak KILLS=100
KILLS ?= 50
soak: setup
	IXI_SOAK=$(KILLS) $(BIN)/python -m pytest tests/test_kill.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An hour on two quiet cores, 4 GB of rivals from PyPI; results go to benchmarks/results.json.
bench: setup
	$(BIN)/python benchmarks/preprocess.py
	$(BIN)/python benchmarks/cohort.py
	$(BIN)/python benchmarks/cohort.py --volumes=100 --ways=two,tfds
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/reading.py --augmented
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/step.py --rivals=pytorch
	$(BIN)/python benchmarks/step.py --rivals=bfloat16
	$(BIN)/python benchmarks/scoring.py

# Needs uv; the lock is what `make setup` installs.
lock:
	uv pip compile --quiet --python-version 3.11 --generate-hashes --extra dev setup.cfg \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv $(DEMO) *.egg-info
