"""Search for hyper-parameters: `python -m trainer tune --data_dir=D --tuning_dir=T`."""

import shlex
import sys
from collections.abc import Sequence

from ixi_tfds.system import commands
from trainer.search.config import SearchConfig

_USAGE = """
python -m trainer tune --data_dir=D --tuning_dir=T [--dataset=ixi_t1/thesis]

Searches for the hyper-parameters with the highest PSNR on the validation slices. The same command
again resumes a search that was stopped. Each finished trial updates T/trials.csv and T/best.flags;
train the best model by python -m trainer --flagfile=T/best.flags

Several processes, on one machine or on several that share the folders: run the same command in
each. Set KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT to an address of the first process. Set
KERASTUNER_TUNER_ID to "chief" in the first process, which does not train, and to a different name
in each other process. Restart a process that died under the same name; it resumes its trial.
"""


def _main(config: SearchConfig) -> None:
    from trainer.search import run as search

    table = search.tune(config)
    if table is None:
        print("the search is finished; the chief has the results")
        return
    print(table.to_string(index=False, float_format="%.5g"))
    print(
        f"best: trial {table['trial'].iloc[0]}, PSNR {table['psnr'].iloc[0]:.2f} dB on validation "
        f"slices; train it: python -m trainer "
        + shlex.quote(f"--flagfile={config.tuning_dir}/best.flags")
    )


COMMAND = commands.Command(
    SearchConfig, _main, "search for hyper-parameters, on one or several workers", _USAGE
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, the process's own by default; returns the exit code."""
    return commands.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(run())
