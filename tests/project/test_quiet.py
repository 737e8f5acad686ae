"""Whole commands, as a user types them, write nothing of libraries to standard error."""

import os
import subprocess
import sys

import pytest
from tiny_dataset import write_tiny_dataset
from volumes import SMALL, write_cohort

_SMALL_MODEL = "--model=resnet_like --stem_filters=16 --stage_filters=16 --stage_blocks=1"
_COMMANDS = (
    "beam_preprocess --source_dir=source --data_dir=data --direct_running_mode=multi_processing"
    f" --direct_num_workers=2 {' '.join(SMALL)}",
    f"trainer --data_dir=. --dataset=ixi_t1/tiny --workdir=run {_SMALL_MODEL} --batch_size=4"
    " --epochs=1 --replicas=2 --jit_compile=off",
    "evaluator --data_dir=. --dataset=ixi_t1/tiny --saved_model=run/export/resnet_like"
    " --output_dir=scores",
)


@pytest.mark.slow
def test_commands_say_nothing_but_warnings_of_ours(tmp_path):
    """In one test, for later commands take the results of earlier ones."""
    write_cohort(tmp_path / "source", subjects=6)
    write_tiny_dataset(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    for command in _COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        others = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert not others, command
