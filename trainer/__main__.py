"""Train an autoencoder on a dataset: `python -m trainer --data_dir=D --workdir=W`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ixi_tfds import cli
from trainer import config as configs

_USAGE = """trainer: train an autoencoder, keep the best weights, export them as a SavedModel.

The same command again goes on with a run that was stopped."""

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string("dataset", "ixi_t1/thesis", "Name and config within it.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Folder of this run.", flag_values=FLAGS)
flags.DEFINE_string(
    "model", "small_resnet", f"One of {', '.join(configs.MODELS)}.", flag_values=FLAGS
)
flags.DEFINE_string("loss", "mse", f"One of {', '.join(configs.LOSSES)}.", flag_values=FLAGS)
flags.DEFINE_string(
    "optimizer", "rmsprop", f"One of {', '.join(configs.OPTIMIZERS)}.", flag_values=FLAGS
)
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate at the start.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 100, "Epochs in all.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Global batch, all replicas together.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation.", flag_values=FLAGS)
flags.DEFINE_bool("augment", True, "Corrupt the training inputs.", flag_values=FLAGS)
flags.DEFINE_bool(
    "augment_validation",
    False,
    "Corrupt validation inputs too, and go by the loss on them, as the thesis seems to have done.",
    flag_values=FLAGS,
)
flags.DEFINE_bool("mixed_precision", False, "Compute in 16 bits.", flag_values=FLAGS)
flags.DEFINE_string(
    "jit_compile", "auto", "on, off, or auto, which is on for GPUs only.", flag_values=FLAGS
)
flags.DEFINE_bool("cache", False, "Keep the training records in memory.", flag_values=FLAGS)
flags.DEFINE_integer(
    "replicas", 0, "Devices to use; 0 takes every GPU, or the CPU.", flag_values=FLAGS
)
flags.mark_flags_as_required(["data_dir", "workdir"], flag_values=FLAGS)


def _main(rest: list[str]) -> None:
    if rest:
        raise flags.Error(f"unexpected argument {rest[0]!r}")
    names = [field.name for field in dataclasses.fields(configs.TrainConfig)]
    values: dict[str, Any] = {name: FLAGS[name].value for name in names}
    config = configs.TrainConfig(**values)
    from trainer import training

    outcome = training.train(config)
    if outcome is None:
        print("done; the chief exports the model")
        return
    best = outcome.best
    command = [
        *("python", "-m", "evaluator", f"--saved_model={outcome.folder}"),
        *(f"--data_dir={config.data_dir}", f"--dataset={config.dataset}", "--split=test"),
        f"--output_dir={config.workdir}/evaluation",
    ]
    print(
        f"best: epoch {best['epoch']} of {config.epochs}, {config.monitored} "
        f"{best[config.monitored]:.6f}, PSNR {best['val_psnr']:.2f} dB, SSIM "
        f"{best['val_ssim']:.4f}; exported to {outcome.folder}; score it: {shlex.join(command)}"
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `cli.run` does."""
    return cli.run(_main, FLAGS, argv, usage=_USAGE)


if __name__ == "__main__":
    sys.exit(run())
