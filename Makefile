# Every target does its own set-up: `make demo` or `make test` may be the first command typed.
# PYTHON=python3.12 picks a Python, GPU=1 or GPU=0 decides about CUDA's libraries, for later calls, too;
# requirements/setup.sh reads both from its environment.
BIN := .venv/bin
DEMO := demo

.PHONY: setup demo thesis lesions test gpu-test planted mutants soak lint bench audit lock clean flink-up flink-test \
  flink-down made-up-brains

setup:
	@sh requirements/setup.sh

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

# Models that find lesions (docs/lesions.md): make lesions SCANS=heads MASKS=masks [OUT=runs/lesions]
# [LESIONS=L [LESION_BRAINS=B]] [TRAIN_FLAGS=...]. The same command again goes on. Without SCANS all
# is made up, and small.
ifdef SCANS
OUT ?= runs/lesions
COPIES ?= 3
BRAINS := brain_2mm
else
OUT ?= $(DEMO)/lesions
COPIES := 1
TRAIN_FLAGS ?= --epochs=7 --warmup_steps=50
BRAINS := brain_3mm
BOX := --scaling=tissue --spacing=3 --size=72x56 --slices=0:56 --plane=$$plane
lesions: SCANS := $(OUT)/scans
lesions: MASKS := $(OUT)/masks
lesions: made-up-brains
endif
HELD_OUT := --data_dir=$(OUT)/data --dataset=ixi_t1/$(BRAINS)_axial
LESION_MODELS := $(OUT)/repair_axial/export/unet,$(OUT)/repair_sagittal/export/unet,$(strip \
  )$(OUT)/denoise_axial/export/unet,$(OUT)/denoise_sagittal/export/unet
lesions: setup
	for plane in axial sagittal; do \
	  $(BIN)/python -m beam_preprocess --source_dir=$(SCANS) $(if $(MASKS),--brain_masks=$(MASKS)) \
	    --data_dir=$(OUT)/data --config=$(BRAINS)_$$plane --copies=$(COPIES) $(BOX) \
	    --direct_running_mode=multi_processing --direct_num_workers=2 || exit; done
	for task in repair denoise; do for plane in axial sagittal; do \
	  $(BIN)/python -m trainer --flagfile=trainer/recipes/lesions/$$task.flags --data_dir=$(OUT)/data \
	    --dataset=ixi_t1/$(BRAINS)_$$plane --workdir=$(OUT)/$${task}_$$plane $(TRAIN_FLAGS) || exit; done; done
	$(BIN)/python -m evaluator calibrate $(HELD_OUT) --saved_model=$(LESION_MODELS) --output_dir=$(OUT)/ensemble
	$(BIN)/python -m evaluator anomalies $(HELD_OUT) --saved_model=$(OUT)/ensemble --output_dir=$(OUT)/synthetic
ifdef LESIONS
	$(BIN)/python -m evaluator anomalies $(HELD_OUT) --saved_model=$(OUT)/ensemble --source_dir=$(LESIONS) \
	  $(if $(LESION_BRAINS),--brain_masks=$(LESION_BRAINS)) --output_dir=$(OUT)/real
endif
	@echo "Look at $(OUT)/synthetic/anomalies.html$(if $(LESIONS), and $(OUT)/real/anomalies.html)."

made-up-brains: setup
	$(BIN)/python -m ixi_tfds cohort --output_dir=$(OUT)/scans --brain_masks=$(OUT)/masks --subjects=16

# Files of tests side by side, 3 GB of memory each. Tests wait for other processes a third of the time, so
# 2 cores take 3.
WORKERS ?= 3
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

# Known bugs, planted one at a time: each has to fail its test (FLAGS="-k TEXT" plants some of them).
planted: setup
	$(BIN)/python tests/plant.py $(FLAGS)

# By hand, on a machine without a GPU: whether TensorFlow finds every CUDA library (2 GB, 6 GB unpacked).
gpu-test: setup
	$(BIN)/python tests/gpu_libraries.py .gpu-test $(if $(PYTHON),--python=$(PYTHON)) $(FLAGS)

# How many small changes to the modules that decide numbers are noticed by their tests.
mutants: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --upgrade --target .venv-mutants/packages -r tests/mutants.lock
	$(BIN)/python tests/mutants.py --jobs=$(WORKERS) $(FLAGS)

# What takes too long for `make test`, bounded in count and in time: a coverage-guided fuzzer on the
# reading of scans, more inputs for every property, more moments to be killed at.
SOAK_SECONDS ?= 3600
SOAK_EXAMPLES ?= 5000
SOAK_KILLS ?= 200
soak: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --upgrade --target .venv-soak/packages -r tests/soak.lock
	PYTHONPATH=.:.venv-soak/packages $(BIN)/python tests/fuzz_reader.py .venv-soak/corpus \
	  -max_total_time=$(SOAK_SECONDS) -print_final_stats=1 -artifact_prefix=.venv-soak/
	SOAK_EXAMPLES=$(SOAK_EXAMPLES) timeout $(SOAK_SECONDS) $(BIN)/python -m pytest \
	  tests/ixi_tfds/test_fuzz.py tests/ixi_tfds/cohorts/test_bad_workbooks.py tests/ixi_tfds/cohorts/test_hostile_names.py
	SOAK_KILLS=$(SOAK_KILLS) timeout $(SOAK_SECONDS) $(BIN)/python -m pytest \
	  tests/beam_preprocess/test_kill.py tests/trainer/test_resume.py -k "test_kill or at_random"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# On two quiet cores, 10 GB of rivals from PyPI; results go to benchmarks/results.json, and the table
# to docs/performance.md. Reading has five runs, with other benchmarks between them. What whole commands
# need is made before: a cohort of 581 volumes, and a dataset of 216 slices with an untrained model.
BENCH = $(BIN)/python benchmarks
READ = $(BENCH)/reading.py --rounds=5
MADE := $(CURDIR)/.bench
HEADS_2MM := --data_dir=$(MADE)/data --dataset=ixi_t1/heads_2mm
SMALL := --saved_model=$(MADE)/small/export/small_resnet
HEAD := $(MADE)/heads/IXI701-HH-3701-T1.nii.gz
COMPARE = $(BENCH)/commands.py --before=be73260
bench: setup
	$(READ)
	$(BENCH)/preprocess.py
	$(if $(IXI_REAL_DATA),$(BENCH)/preprocess.py --real)
	$(if $(IXI_REAL_DATA),$(BENCH)/preprocess.py --real --rivals=nobrainer --rounds=5)
	$(BENCH)/cohort.py --scans=$(MADE)/scans
	$(READ) --again
	$(BENCH)/cohort.py --volumes=100 --ways=two,tfds
	$(BENCH)/spacing.py --rounds=5
	$(BENCH)/reading.py --augmented --rounds=5
	$(READ) --again
	$(BENCH)/step.py --rounds=20
	$(BENCH)/step.py --rivals=pytorch --rounds=20
	$(BENCH)/step.py --rivals=bfloat16 --rounds=20
	$(READ) --again
	$(BENCH)/step.py --rivals=pytorch --model=big_resnet --rounds=8
	$(BENCH)/step.py --rivals=bfloat16 --model=big_resnet --rounds=8
	$(BENCH)/scoring.py --rounds=5
	$(BIN)/python -m ixi_tfds cohort --output_dir=$(MADE)/heads --subjects=12 --brain_masks=$(MADE)/masks
	$(BIN)/python -m beam_preprocess --source_dir=$(MADE)/heads --data_dir=$(MADE)/data --config=heads_2mm \
	  --spacing=2 --size=128x128 --slices=30:54
	$(BIN)/python -m beam_preprocess --source_dir=$(MADE)/scans --data_dir=$(MADE)/data --allow_same_bytes
	$(BIN)/python -m trainer $(HEADS_2MM) --workdir=$(MADE)/small --model=small_resnet --epochs=1 \
	  --steps_per_epoch=1 --batch_size=8
	$(COMPARE) --name="reconstruct by Small" -- \
	  evaluator reconstruct $(SMALL) --input=$(HEAD) --output_dir=OUT --view=false
	$(COMPARE) --name="reconstruct by the ensemble" -- \
	  evaluator reconstruct --saved_model=$(CURDIR)/.rivals/be73260/pretrained/lesions_2mm --input=$(HEAD) \
	  --brain_masks=$(MADE)/masks --output_dir=OUT --view=false
	$(COMPARE) --name=scores -- \
	  evaluator $(SMALL) $(HEADS_2MM) --split=train --output_dir=OUT --robustness --lesions
	$(COMPARE) --name=verify --ignore_stdout -- beam_preprocess verify --data_dir=$(MADE)/data
	$(COMPARE)
	$(READ) --again
	$(BENCH)/table.py

# Needs PyPI's or OSV's data: without, pip-audit skips packages, which --strict makes an error.
audit: setup
	$(BIN)/python -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	for lock in requirements/*.lock tests/*.lock; do \
	  .venv-audit/bin/pip-audit --strict --require-hashes --disable-pip -r $$lock || exit; done

# A Flink cluster on this machine (docs/scaling.md); needs Java 11 or 17 and Maven.
flink-up flink-down: setup
	$(BIN)/python cluster/flink.py $(@:flink-%=%)

flink-test: setup
	IXI_FLINK=1 $(BIN)/python -m pytest tests/beam_preprocess/test_flink.py

# Needs uv. Python 3.13 takes the lock of 3.12, and so do the locks of tests/.
UV := uv pip compile --quiet --generate-hashes --python-platform linux --custom-compile-command "make lock"
lock:
	$(UV) --python-version 3.11 --extra dev setup.cfg -o requirements/classic.lock
	$(UV) --python-version 3.12 --extra dev setup.cfg -o requirements/current.lock
	$(UV) --python-version 3.11 --extra dev --extra gpu setup.cfg -o requirements/classic-gpu.lock \
	  -c requirements/classic.lock
	$(UV) --python-version 3.12 --extra dev --extra gpu setup.cfg -o requirements/current-gpu.lock \
	  -c requirements/current.lock
	echo atheris==3.0.0 | $(UV) --python-version 3.11 - -o tests/soak.lock
	echo cosmic-ray==8.7.0 | $(UV) --python-version 3.11 - -o tests/mutants.lock

clean:
	rm -rf .venv* .gpu-test .flink .bench $(DEMO) *.egg-info
