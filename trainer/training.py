"""One training run, from a config to an exported model."""

import dataclasses
import importlib.metadata
import json
import pathlib
import sys
import tempfile
from typing import Any

import tensorflow as tf
from tensorflow import keras

from ixi_tfds import datasets
from ixi_tfds.configs import SliceConfig
from ixi_tfds.errors import UserError
from trainer import (
    augmentation,
    callbacks,
    distribution,
    export,
    input_pipeline,
    losses,
    models,
    state,
)
from trainer.autoencoder import Autoencoder
from trainer.config import TrainConfig, claim_workdir

_SHOWN = 4
_PACKAGES = ("ixi-autoencoders", "tensorflow", "tensorflow-addons", "tensorflow-datasets", "numpy")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
      best: the history's row of the best epoch.
      folder: of the exported SavedModel.
    """

    best: dict[str, float]
    folder: pathlib.Path


def _check(config: TrainConfig, replicas: int, split: input_pipeline.Split) -> None:
    if config.batch_size % replicas:
        raise UserError(
            f"--batch_size={config.batch_size}: must be divisible by the {replicas} replicas"
        )
    if any(side % models.STRIDE for side in split.size):
        raise UserError(
            f"--dataset={config.dataset}: its slices are {split.size[0]}x{split.size[1]}; height "
            f"and width must be multiples of {models.STRIDE}"
        )
    if split.slices < config.batch_size:
        raise UserError(
            f"--batch_size={config.batch_size}: the train split has {split.slices} slices only"
        )
    if config.jit_compile == "on" and replicas > 1 and not tf.config.list_physical_devices("GPU"):
        raise UserError("--jit_compile=on: works with one replica only where there is no GPU")


def _precision(config: TrainConfig) -> str:
    if not config.mixed_precision:
        return "float32"
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    # bfloat16 needs no loss scaling; GPUs have it from compute capability 8 on.
    return "mixed_float16" if any(which < (8, 0) for which in capabilities) else "mixed_bfloat16"


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    classes = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}
    optimizer = classes[config.optimizer](config.learning_rate)
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def _build(config: TrainConfig, size: tuple[int, int]) -> Autoencoder:
    network = models.build(config.model, size)
    model = Autoencoder(
        network,
        losses.LOSSES[config.loss],
        batch_size=config.batch_size,
        seed=config.seed,
        augment=augmentation.AugmentationConfig() if config.augment else None,
        augment_validation=config.augment_validation,
    )
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit = config.jit_compile == "on" or (config.jit_compile == "auto" and has_gpu)
    model.compile(optimizer=_optimizer(config), jit_compile=jit)
    model.optimizer.build(network.trainable_variables)
    return model


def train(config: TrainConfig) -> Outcome | None:
    """Train, or go on training, and export the best weights.

    Returns:
      What came out; None on a worker that is not the chief and so exports nothing.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder, or another
        worker is gone.
    """
    cluster = distribution.read_cluster()
    # Nothing may use TensorFlow's devices before.
    strategy = distribution.make_strategy(config.replicas, cluster)
    folder = datasets.find_dataset(config.data_dir, config.dataset)
    manifest = datasets.read_manifest(folder)
    splits = {name: input_pipeline.find_split(folder, name) for name in ("train", "validation")}
    replicas = strategy.num_replicas_in_sync
    _check(config, replicas, splits["train"])
    claim_workdir(config, manifest["fingerprint"], write=cluster.is_chief)

    keras.utils.set_random_seed(config.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_precision(config))
    try:
        with distribution.losing_workers(cluster):
            run_state = _agree_on_state(config, manifest["fingerprint"], strategy)
            with strategy.scope():
                model = _build(config, splits["train"].size)
            print(
                f"{config.dataset}: {splits['train'].slices:,} slices to train on, "
                f"{splits['validation'].slices:,} to validate; {config.model} with "
                f"{model.network.count_params():,} parameters on {replicas} replica(s)",
                flush=True,
            )
            _fit(config, model, splits, run_state, is_chief=cluster.is_chief)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    if not cluster.is_chief:
        return None
    return _export_best(config, run_state, splits["train"].size, manifest)


def _agree_on_state(
    config: TrainConfig, fingerprint: str, strategy: tf.distribute.Strategy
) -> state.RunState:
    """The state from which all workers go on."""
    run_state = state.read_state(pathlib.Path(config.workdir), config.learning_rate)
    flags = {**dataclasses.asdict(config), "data_dir": None, "workdir": None}
    distribution.check_agreement(
        strategy,
        {
            "flags": json.dumps(flags),
            "dataset": fingerprint,
            "what they find in --workdir": json.dumps(dataclasses.asdict(run_state)),
        },
    )
    return run_state


def _fit(
    config: TrainConfig,
    model: Autoencoder,
    splits: dict[str, input_pipeline.Split],
    run_state: state.RunState,
    *,
    is_chief: bool,
) -> None:
    workdir = pathlib.Path(config.workdir)
    done = run_state.epochs_done
    checkpoint = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer)
    if done:
        path = state.checkpoint_path(workdir, done)
        checkpoint.read(str(path)).assert_consumed()
        print(f"going on after epoch {done} of {config.epochs}", flush=True)
        if is_chief:
            state.write_history(workdir, run_state)
    if done >= config.epochs:
        return
    batches = input_pipeline.train_batches(
        splits["train"],
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=range(done, config.epochs),
        cache=config.cache,
    )
    validation = input_pipeline.evaluation_batches(
        splits["validation"], batch_size=config.batch_size
    )
    shown = next(iter(validation.take(1)))["image"][:_SHOWN]

    def shared(whole: tf.data.Dataset) -> Any:
        """The dataset's batches, each dealt to all replicas, of all workers."""

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            pieces = context.num_replicas_in_sync
            here = pieces // context.num_input_pipelines
            first = context.input_pipeline_id * here
            return input_pipeline.share(
                whole,
                batch_size=config.batch_size,
                pieces=pieces,
                mine=range(first, first + here),
            )

        return model.distribute_strategy.distribute_datasets_from_function(of_worker)

    # A bar on a terminal, a line an epoch where the output goes to a file.
    on_terminal = sys.stderr.isatty()
    with tempfile.TemporaryDirectory(prefix="trainer-") as scratch:
        # All workers have to take part in reading the variables; what others than the chief write
        # nobody needs.
        output = workdir if is_chief else pathlib.Path(scratch)
        model.fit(
            shared(batches),
            steps_per_epoch=input_pipeline.steps_per_epoch(splits["train"], config.batch_size),
            validation_data=shared(validation),
            validation_steps=-(-splits["validation"].slices // config.batch_size),
            initial_epoch=done,
            epochs=config.epochs,
            verbose=2 if is_chief and not on_terminal else 0,
            callbacks=[
                *(
                    [callbacks.ProgressBar(config.batch_size, done)]
                    if is_chief and on_terminal
                    else []
                ),
                callbacks.EpochEnd(output, run_state, checkpoint, config.monitored),
                callbacks.TensorBoard(output / "tensorboard", run_state, shown),
            ],
        )


def _export_best(
    config: TrainConfig,
    run_state: state.RunState,
    size: tuple[int, int],
    manifest: dict[str, Any],
) -> Outcome:
    workdir = pathlib.Path(config.workdir)
    best = run_state.history[run_state.best_epoch - 1]
    # A network of its own: float32 and without mirrored variables, whatever training used.
    network = models.build(config.model, size)
    path = state.checkpoint_path(workdir, run_state.best_epoch)
    restored = tf.train.Checkpoint(network=network).read(str(path))
    restored.assert_existing_objects_matched().expect_partial()
    slices = manifest["config"]
    card = {
        "flags": dataclasses.asdict(config),
        "dataset": {
            "fingerprint": manifest["fingerprint"],
            "version": manifest["version"],
            "slices": slices,
            "description": SliceConfig(**slices).description,
        },
        "augmentation": (
            dataclasses.asdict(augmentation.AugmentationConfig()) if config.augment else None
        ),
        "best": best,
        "epochs_trained": run_state.epochs_done,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    folder = workdir / "export" / config.model / "1"
    export.export(network, folder, size=size, scaling=slices["scaling"], card=card)
    return Outcome(best, folder)
