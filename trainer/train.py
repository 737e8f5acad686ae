"""Train an autoencoder on a dataset: `python -m trainer --data_dir=D --workdir=W`."""

import shlex

from ixi_tfds.system.commands import Command
from trainer.config import TrainConfig

_USAGE = """python -m trainer --data_dir=D --workdir=W

Trains an autoencoder, keeps the best weights and exports them as a SavedModel.

The same command again resumes a run that was stopped. --flagfile=FILE reads flags from a file,
such as those in trainer/recipes.

Several machines: run the same command on each, with folders that all of them share. Set
TensorFlow's variable TF_CONFIG on each; only its index differs:
  TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]},
              "task": {"type": "worker", "index": 0}}'"""


def _main(config: TrainConfig) -> None:
    from trainer import run

    outcome = run.train(config)
    if outcome is None:
        print("done; the chief has exported the model")
        return
    best = outcome.best
    several = len(config.datasets) > 1
    scoring = [
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
        f"assets.extra/model_card.md; score it: " + " && ".join(map(shlex.join, scoring))
    )


COMMAND = Command(
    config=TrainConfig, main=_main, summary="train an autoencoder and export it", usage=_USAGE
)
