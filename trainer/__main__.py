"""Train an autoencoder on a dataset: `python -m trainer --data_dir=D --workdir=W`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ixi_tfds import cli
from ixi_tfds.errors import UserError
from trainer import config as configs

_USAGE = """trainer: train an autoencoder, keep the best weights, export them as a SavedModel.

The same command again goes on with a run that was stopped. --flagfile=FILE takes flags from a
file, such as those in trainer/recipes.

Several machines: the same command on each, with folders that all of them see, and TensorFlow's own
TF_CONFIG set, the same but for its index:
  TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]},
              "task": {"type": "worker", "index": 0}}'"""

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string(
    "dataset",
    "ixi_t1/thesis",
    "Name and config within it; several with commas between, to learn from all of them.",
    flag_values=FLAGS,
)
flags.DEFINE_string("workdir", None, "Folder of this run.", flag_values=FLAGS)
flags.DEFINE_string(
    "model", "small_resnet", f"One of {', '.join(configs.MODELS)}.", flag_values=FLAGS
)
flags.DEFINE_string(
    "weights",
    "none",
    "What the encoder of a resnet50 model starts with: none, imagenet (downloaded by Keras), or "
    "a file, Keras's resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "stem_filters", 32, "Filters of the first convolution of resnet_like.", flag_values=FLAGS
)
flags.DEFINE_string(
    "stage_filters", "64,128,256", "Filters of each stage of resnet_like.", flag_values=FLAGS
)
flags.DEFINE_string(
    "stage_blocks", "2,1,1", "Residual blocks of each stage of resnet_like.", flag_values=FLAGS
)
flags.DEFINE_string(
    "upsampling_filters",
    "",
    "Filters of each up-sampling block of resnet_like, one more than there are stages; left out, "
    "those of the encoder in reverse.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "loss",
    "mse",
    f"One of {', '.join(configs.LOSSES)}; mix is a weighted sum of both.",
    flag_values=FLAGS,
)
flags.DEFINE_float("dssim_weight", 0.5, "Share of dssim in --loss=mix.", flag_values=FLAGS)
flags.DEFINE_string(
    "optimizer", "rmsprop", f"One of {', '.join(configs.OPTIMIZERS)}.", flag_values=FLAGS
)
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate at the start.", flag_values=FLAGS)
flags.DEFINE_string(
    "schedule", "plateau", f"One of {', '.join(configs.SCHEDULES)}.", flag_values=FLAGS
)
flags.DEFINE_integer("epochs", 100, "Epochs in all.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Global batch, all replicas together.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation.", flag_values=FLAGS)
flags.DEFINE_bool("augment", True, "Corrupt the training inputs.", flag_values=FLAGS)
flags.DEFINE_float(
    "augment_fraction", 1.0, "Share of the inputs to corrupt at all.", flag_values=FLAGS
)
flags.DEFINE_float(
    "gaussian_noise", 0.0, "Standard deviation of noise in corrupted inputs.", flag_values=FLAGS
)
flags.DEFINE_float(
    "rician_noise", 0.0, "Standard deviation of Rician noise in them.", flag_values=FLAGS
)
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
flags.DEFINE_integer(
    "profile_steps",
    0,
    "Profile this many steps, for TensorBoard with the package tensorboard-plugin-profile.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "verify",
    "full",
    "What to check of the dataset before the first step: full reads every byte, quick goes by "
    "names and sizes.",
    flag_values=FLAGS,
)
flags.mark_flags_as_required(["data_dir", "workdir"], flag_values=FLAGS)

_LISTS = ("stage_filters", "stage_blocks", "upsampling_filters")
_OWNERS = {
    "model=resnet_like": ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters"),
    "loss=mix": ("dssim_weight",),
}
"""Flags that mean something beside one value of another flag only."""


def _numbers(name: str) -> tuple[int, ...]:
    text = FLAGS[name].value
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise flags.Error(
            f"--{name}={text}: give whole numbers with commas between them"
        ) from error


def _config(rest: Sequence[str]) -> configs.TrainConfig:
    if rest:
        raise flags.Error(f"unexpected argument {rest[0]!r}")
    for owner, names in _OWNERS.items():
        flag, value = owner.split("=")
        for name in names:
            if FLAGS[name].present and FLAGS[flag].value != value:
                raise UserError(f"--{name} goes with --{owner} only")
    fields = [field.name for field in dataclasses.fields(configs.TrainConfig)]
    values: dict[str, Any] = {name: FLAGS[name].value for name in fields}
    return configs.TrainConfig(**values | {name: _numbers(name) for name in _LISTS})


def _main(rest: list[str]) -> None:
    config = _config(rest)
    from trainer import training

    outcome = training.train(config)
    if outcome is None:
        print("done; the chief has exported the model")
        return
    best = outcome.best
    several = len(config.datasets) > 1
    commands = [
        [
            *("python", "-m", "evaluator", f"--saved_model={outcome.folder}"),
            *(f"--data_dir={config.data_dir}", f"--dataset={name}", "--split=test"),
            f"--output_dir={config.workdir}/evaluation" + f"/{name}" * several,
        ]
        for name in config.datasets
    ]
    print(
        f"best: epoch {best['epoch']} of {config.epochs}, {config.monitored} "
        f"{best[config.monitored]:.6f}, PSNR {best['val_psnr']:.2f} dB, SSIM "
        f"{best['val_ssim']:.4f}; exported to {outcome.folder}, with its card in "
        f"assets.extra/model_card.md; score it: " + " && ".join(map(shlex.join, commands))
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `cli.run` does."""
    return cli.run(_main, FLAGS, argv, usage=_USAGE)


if __name__ == "__main__":
    sys.exit(run())
