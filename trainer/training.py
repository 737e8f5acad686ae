"""One training run, from a config to an exported model."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from ixi_tfds import folders, integrity, storage
from ixi_tfds.errors import UserError
from trainer import (
    augmentation,
    callbacks,
    distribution,
    export,
    input_pipeline,
    losses,
    model_card,
    models,
    pretrained,
    sources,
    state,
)
from trainer.autoencoder import Autoencoder
from trainer.cluster import Cluster, read_cluster
from trainer.config import TrainConfig, claim_workdir

_SHOWN = 4


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
    stride = models.stride(config.model, len(config.stage_filters))
    if any(side % stride for side in split.size):
        raise UserError(
            f"--dataset={config.dataset}: its slices are {split.size[0]}x{split.size[1]}; height "
            f"and width must be multiples of {stride} for --model={config.model}"
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


def _network(config: TrainConfig, size: tuple[int, int]) -> keras.Model:
    return models.build(
        config.model,
        size,
        rgb=config.rgb,
        stem_filters=config.stem_filters,
        stage_filters=config.stage_filters,
        stage_blocks=config.stage_blocks,
        upsampling_filters=config.upsampling_filters,
    )


def _augmentation(config: TrainConfig) -> augmentation.AugmentationConfig | None:
    if not config.augment:
        return None
    return augmentation.AugmentationConfig(
        fraction=config.augment_fraction,
        gaussian_noise=config.gaussian_noise,
        rician_noise=config.rician_noise,
    )


def build(
    config: TrainConfig, size: tuple[int, int], weights: pretrained.Weights | None
) -> Autoencoder:
    """The model of a run, compiled, with the optimizer's variables made.

    Args:
      config: of the run.
      size: (height, width) of the slices.
      weights: what the encoder starts with; None leaves it random.
    """
    network = _network(config, size)
    if weights:
        pretrained.start_with(network.encoder, weights)
    model = Autoencoder(
        network,
        losses.make_loss(config.loss, dssim_weight=config.dssim_weight),
        batch_size=config.batch_size,
        seed=config.seed,
        augment=_augmentation(config),
        augment_validation=config.augment_validation,
    )
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit = config.jit_compile == "on" or (config.jit_compile == "auto" and has_gpu)
    model.compile(optimizer=_optimizer(config), jit_compile=jit)
    model.optimizer.build(network.trainable_variables)
    return model


def train(config: TrainConfig) -> Outcome | None:
    """Train, or go on training, and export the best weights.

    Where `TF_CONFIG` makes this process one of several workers, it takes its share.

    Returns:
      What came out; None on a worker that is not the chief and so exports nothing.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder, or another
        worker is gone.
      DivergedError: the loss is no longer a number.
    """
    setting = _set_up(config)
    cluster = setting.cluster
    with _writing(config, cluster):
        run_state = _train(config, setting, config.epochs)
        outcome = _export_best(config, run_state, setting.data) if cluster.is_chief else None
        # Nobody leaves before the model is there: the next run may begin at the same addresses.
        with distribution.losing_workers(cluster):
            results = {"their results": json.dumps(dataclasses.asdict(run_state))}
            distribution.check_agreement(setting.strategy, cluster, results)
    return outcome


def train_until(config: TrainConfig, epoch: int) -> state.RunState:
    """Train, or go on training, until so many of the config's epochs are done; export nothing.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder.
      DivergedError: the loss is no longer a number.
    """
    setting = _set_up(config)
    with _writing(config, setting.cluster):
        return _train(config, setting, epoch)


class _Setting(NamedTuple):
    """What a run works with, found fit before anything is written."""

    cluster: Cluster
    data: sources.Sources
    strategy: tf.distribute.Strategy
    weights: pretrained.Weights | None


def _set_up(config: TrainConfig) -> _Setting:
    cluster = read_cluster()
    data = sources.open_sources(config.data_dir, config.datasets, config.verify)
    strategy = distribution.make_strategy(config.replicas, cluster)
    _check(config, strategy.num_replicas_in_sync, data.train)
    weights = pretrained.read_resnet50(config.weights) if config.rgb else None
    return _Setting(cluster, data, strategy, weights)


def _writing(config: TrainConfig, cluster: Cluster) -> contextlib.AbstractContextManager[None]:
    """The working folder for this run alone; in a cluster the chief has it, who alone writes."""
    if cluster.is_chief:
        return folders.writing(config.workdir, "workdir")
    return folders.telling_faults(config.workdir, "workdir")


def _train(config: TrainConfig, setting: _Setting, until: int) -> state.RunState:
    cluster, data, strategy, weights = setting
    replicas = strategy.num_replicas_in_sync
    claim_workdir(config, data.fingerprint, write=cluster.is_chief)

    keras.utils.set_random_seed(config.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_precision(config))
    try:
        with distribution.losing_workers(cluster), integrity.user_error_if_damaged(config.dataset):
            run_state = _agree_on_state(config, data.fingerprint, strategy, cluster)
            with strategy.scope():
                model = build(config, data.train.size, weights)
            print(
                f"{config.dataset}: {data.train.slices:,} slices to train on, "
                f"{data.validation.slices:,} to validate; {config.model} with "
                f"{model.network.count_params():,} parameters on {replicas} replica(s)",
                flush=True,
            )
            _fit(config, model, data, run_state, until, is_chief=cluster.is_chief)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    return run_state


def _agree_on_state(
    config: TrainConfig, fingerprint: str, strategy: tf.distribute.Strategy, cluster: Cluster
) -> state.RunState:
    """The state from which all workers go on."""
    run_state = state.read_state(storage.at(config.workdir), config.learning_rate)
    flags = {**dataclasses.asdict(config), "data_dir": None, "workdir": None, "verify": None}
    distribution.check_agreement(
        strategy,
        cluster,
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
    data: sources.Sources,
    run_state: state.RunState,
    until: int,
    *,
    is_chief: bool,
) -> None:
    workdir = storage.at(config.workdir)
    done = run_state.epochs_done
    checkpoint = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer)
    if done:
        path = state.checkpoint_path(workdir, done)
        with state.telling_damage(path):
            checkpoint.read(str(path)).assert_consumed()
        print(f"going on after epoch {done} of {config.epochs}", flush=True)
        if is_chief:
            state.write_history(workdir, run_state)
    if done >= until:
        return
    batches = input_pipeline.train_batches(
        data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=range(done, until),
        cache=config.cache,
    )
    validation = input_pipeline.evaluation_batches(data.validation, batch_size=config.batch_size)
    shown = next(iter(validation.take(1)))["image"][:_SHOWN]
    # A bar on a terminal, a line an epoch where the output goes to a file.
    on_terminal = sys.stderr.isatty()
    with tempfile.TemporaryDirectory(prefix="trainer-") as scratch:
        # Reading the variables takes all workers. What others than the chief write nobody needs.
        output = workdir if is_chief else pathlib.Path(scratch)
        tensorboard = output / "tensorboard"
        shows_bar = is_chief and on_terminal
        profile = callbacks.Profile(tensorboard, config.profile_steps)
        model.fit(
            _dealt(batches, config.batch_size, model.distribute_strategy),
            steps_per_epoch=input_pipeline.steps_per_epoch(data.train, config.batch_size),
            validation_data=_dealt(validation, config.batch_size, model.distribute_strategy),
            validation_steps=-(-data.validation.slices // config.batch_size),
            initial_epoch=done,
            epochs=until,
            verbose=2 if is_chief and not on_terminal else 0,
            callbacks=[
                *([callbacks.ProgressBar(config.batch_size, done)] if shows_bar else []),
                *([profile] if is_chief and config.profile_steps else []),
                callbacks.FiniteLoss(workdir, functools.partial(_keys_of, config, data)),
                callbacks.EpochEnd(
                    output,
                    run_state,
                    checkpoint,
                    config.monitored,
                    schedule=config.schedule,
                    epochs=config.epochs,
                ),
                callbacks.TensorBoard(tensorboard, run_state, shown),
            ],
        )


def _keys_of(config: TrainConfig, data: sources.Sources, epoch: int, step: int) -> list[str]:
    """The names of the slices of a global batch; epoch and step count from 0."""
    batches = input_pipeline.train_batches(
        data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=range(epoch, epoch + 1),
        cache=config.cache,
        field="key",
    )
    (batch,) = batches.skip(step).take(1)
    return [key.decode() for key in batch["key"].numpy()]


def _dealt(batches: tf.data.Dataset, batch_size: int, strategy: tf.distribute.Strategy) -> Any:
    """Global batches, each dealt to all replicas of all workers."""
    if strategy.num_replicas_in_sync == 1:
        return batches

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        pieces = context.num_replicas_in_sync
        here = pieces // context.num_input_pipelines
        first = context.input_pipeline_id * here
        mine = range(first, first + here)
        return input_pipeline.share(batches, batch_size=batch_size, pieces=pieces, mine=mine)

    return strategy.distribute_datasets_from_function(of_worker)


def _export_best(config: TrainConfig, run_state: state.RunState, data: sources.Sources) -> Outcome:
    workdir = storage.at(config.workdir)
    best = run_state.history[run_state.best_epoch - 1]
    # A network of its own: float32 and without mirrored variables, whatever training used. Its
    # layers' names count from the beginning, so that a resumed run exports the same bytes.
    keras.backend.reset_uids()
    size = data.train.size
    network = _network(config, size)
    path = state.checkpoint_path(workdir, run_state.best_epoch)
    with state.telling_damage(path):
        restored = tf.train.Checkpoint(network=network).read(str(path))
        restored.assert_existing_objects_matched().expect_partial()
    card = model_card.make_card(
        config,
        data,
        _augmentation(config),
        parameters=network.count_params(),
        best=best,
        epochs_trained=run_state.epochs_done,
    )
    folder = workdir / "export" / config.model / "1"
    export.export(network, folder, size=size, scaling=data.scaling, card=card)
    return Outcome(best, folder)
