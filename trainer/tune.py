"""Search for hyper-parameters: `python -m trainer.tune --data_dir=D --tuning_dir=T`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ixi_tfds import cli
from trainer import search

_USAGE = """trainer.tune: search for hyper-parameters by PSNR on the validation slices.

The same command again goes on with a search that was stopped. In the end, and after each trial,
TUNING_DIR holds trials.csv and best.flags: python -m trainer --flagfile=TUNING_DIR/best.flags

Several processes, on one machine or more that share the folders: the same command in each, with
KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT set to an address of the first of them and
KERASTUNER_TUNER_ID to chief in that one, which trains nothing, and to a name of its own in each
other. One that died is started again under its name, and goes on with its trial."""

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string(
    "dataset",
    "ixi_t1/thesis",
    "Name and config within it; several with commas between.",
    flag_values=FLAGS,
)
flags.DEFINE_string("tuning_dir", None, "Folder of this search.", flag_values=FLAGS)
flags.DEFINE_string("tuner", "hyperband", f"One of {', '.join(search.TUNERS)}.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 30, "Epochs of a trial, at most.", flag_values=FLAGS)
flags.DEFINE_integer(
    "max_trials", 50, "Trials at most; Hyperband may plan fewer.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "factor",
    3,
    "Hyperband trains one trial in so many further, so many times as long.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "random_trials", 10, "Trials before Bayesian optimization has a say.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "max_parameters",
    search.BIG_PARAMETERS,
    "No model has more; by default the number of big_resnet.",
    flag_values=FLAGS,
)
flags.DEFINE_string("batch_sizes", "8,16,32,64", "Batch sizes to choose from.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the search and of its trials.", flag_values=FLAGS)
flags.DEFINE_bool("mixed_precision", False, "Compute in 16 bits.", flag_values=FLAGS)
flags.DEFINE_string(
    "jit_compile", "auto", "on, off, or auto, which is on for GPUs only.", flag_values=FLAGS
)
flags.DEFINE_bool("cache", False, "Keep the training records in memory.", flag_values=FLAGS)
flags.DEFINE_integer(
    "replicas", 0, "Devices to use; 0 takes every GPU, or the CPU.", flag_values=FLAGS
)
flags.DEFINE_string(
    "verify",
    "full",
    "What to check of the dataset before the first step: full reads every byte, quick goes by "
    "names and sizes.",
    flag_values=FLAGS,
)
flags.mark_flags_as_required(["data_dir", "tuning_dir"], flag_values=FLAGS)


def _main(rest: list[str]) -> None:
    if rest:
        raise flags.Error(f"unexpected argument {rest[0]!r}")
    names = [field.name for field in dataclasses.fields(search.SearchConfig)]
    values: dict[str, Any] = {name: FLAGS[name].value for name in names}
    sizes = values["batch_sizes"]
    try:
        values["batch_sizes"] = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise flags.Error(f"--batch_sizes={sizes}: give numbers with commas between") from error
    config = search.SearchConfig(**values)
    from trainer import tuning

    table = tuning.tune(config)
    if table is None:
        print("the search is over; the chief has the results")
        return
    print(table.to_string(index=False, float_format="%.5g"))
    print(
        f"best: trial {table['trial'].iloc[0]}, PSNR {table['psnr'].iloc[0]:.2f} dB on validation "
        f"slices; train it: python -m trainer "
        + shlex.quote(f"--flagfile={config.tuning_dir}/best.flags")
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `cli.run` does."""
    return cli.run(_main, FLAGS, argv, usage=_USAGE)


if __name__ == "__main__":
    sys.exit(run())
