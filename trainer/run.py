"""One training run, from a config to an exported model."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from ixi_tfds import gpus, integrity
from ixi_tfds.system import flags, folders, storage
from trainer import callbacks, data, distribution, fitting, losses, models, tasks, workdir
from trainer.autoencoder import Autoencoder
from trainer.cluster import Cluster, read_cluster
from trainer.config import OPTIMIZERS, TrainConfig
from trainer.data import TrainingData
from trainer.export import card, half, saved_model
from trainer.models import pretrained

_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The history's row of the best epoch, and the folder of the exported SavedModel."""

    best: dict[str, float]
    folder: pathlib.Path


def train(config: TrainConfig) -> Outcome | None:
    """Train, or resume training, and export the best weights.

    `TF_CONFIG` can make this process one of several workers.

    Returns:
      The result; None in a worker that is not the chief, because only the chief exports.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder, or another
        worker is lost.
      DivergedError: the loss is not finite.
    """
    run = _prepare(config)
    with _writing(run):
        state = _train(run, config.epochs)
        outcome = _export_best(run, state) if run.cluster.is_chief else None
        # All wait for the export, because the next run may use the same addresses.
        with distribution.user_error_if_a_worker_is_lost(run.cluster):
            results = {"their results": json.dumps(dataclasses.asdict(state))}
            distribution.check_agreement(run.strategy, run.cluster, results)
        distribution.leave_together(run.strategy, run.cluster)
    return outcome


def train_until(config: TrainConfig, epoch: int) -> workdir.RunState:
    """Train, or resume training, until `epoch` epochs are finished; exports nothing.

    It raises the same errors as `train`.
    """
    run = _prepare(config)
    with _writing(run):
        return _train(run, epoch)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The checked inputs of a run; without `weights` the encoder starts with random ones."""

    config: TrainConfig
    data: TrainingData
    cluster: Cluster
    strategy: tf.distribute.Strategy
    weights: pretrained.Weights | None

    @property
    def folder(self) -> pathlib.Path:
        """The working folder."""
        return storage.at(self.config.workdir)


def _prepare(config: TrainConfig) -> _Run:
    gpus.prepare()
    cluster = read_cluster()
    opened = data.open_data(config.data_dir, config.datasets, config.verify)
    strategy = distribution.make_strategy(config.replicas, cluster)
    fitting.check_fits(config, strategy.num_replicas_in_sync, opened)
    print(
        gpus.describe(_policy(config), _compiles(config, strategy.num_replicas_in_sync)), flush=True
    )
    weights = pretrained.read_resnet50(config.model.weights) if config.model.rgb else None
    return _Run(config, opened, cluster, strategy, weights)


def _writing(run: _Run) -> contextlib.AbstractContextManager[None]:
    """Lock the working folder for this run; of several workers only the chief writes to it."""
    watch = folders.writing if run.cluster.is_chief else folders.os_errors_as_user_errors
    return watch(run.config.workdir, "workdir")


def _train(run: _Run, until: int) -> workdir.RunState:
    config = run.config
    workdir.open_workdir(config, run.data.fingerprint, write=run.cluster.is_chief)
    keras.utils.set_random_seed(config.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    with (
        _precision(config),
        distribution.user_error_if_a_worker_is_lost(run.cluster),
        integrity.user_error_if_damaged(config.dataset),
    ):
        state = _agree_on_state(run)
        with run.strategy.scope():
            model = build(config, run.data.train.size, run.weights, run.data.place)
        print(
            f"{config.dataset}: {run.data.train.slices:,} slices to train on, "
            f"{run.data.validation.slices:,} to validate; {config.model.name} with "
            f"{model.network.count_params():,} parameters on "
            f"{run.strategy.num_replicas_in_sync} replica(s)",
            flush=True,
        )
        checkpoint = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer)
        if state.epochs_done:
            _resume(run, state, checkpoint)
        if state.epochs_done < until:
            _fit(run, model, state, checkpoint, until)
    return state


@contextlib.contextmanager
def _precision(config: TrainConfig) -> Iterator[None]:
    """Set the precision of a config, and restore the former one afterwards."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_policy(config))
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _policy(config: TrainConfig) -> str:
    if not config.mixed_precision:
        return "float32"
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        # bfloat16 needs no loss scaling, but only GPUs from compute capability 8 on have it.
        if details.get("compute_capability", (0, 0)) < (8, 0):
            return "mixed_float16"
    return "mixed_bfloat16"


def _agree_on_state(run: _Run) -> workdir.RunState:
    """The state in the working folder, checked to be the same for all workers."""
    state = workdir.read_state(run.folder, run.config.learning_rate)
    values = flags.as_flags(run.config) | {"data_dir": None, "workdir": None, "verify": None}
    texts = {
        "flags": json.dumps(values),
        "dataset": run.data.fingerprint,
        "the state in --workdir": json.dumps(dataclasses.asdict(state)),
    }
    distribution.check_agreement(run.strategy, run.cluster, texts)
    return state


def build(
    config: TrainConfig,
    size: tuple[int, int],
    weights: pretrained.Weights | None,
    place: tasks.Place | None = None,
) -> Autoencoder:
    """The compiled model of a run for slices of `size` (height, width), with optimizer variables.

    `weights` are for the start of the encoder; None leaves it random. `place` is that of slices of
    brains.
    """
    task = tasks.TASKS[config.task]
    network = models.build(config.model, size, marks=task.marks)
    if weights:
        pretrained.start_with(network.encoder, weights)
    model = Autoencoder(
        network,
        losses.make_loss(config.loss, weight=config.dssim_weight),
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.corruptions,
        augment_validation=config.augment_validation,
        task=task,
        place=place,
    )
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    model.compile(optimizer=_optimizer(config), jit_compile=_compiles(config, replicas))
    model.optimizer.build(network.trainable_variables)
    return model


def _compiles(config: TrainConfig, replicas: int) -> bool:
    """Whether XLA compiles the training step."""
    if config.jit_compile == "auto":
        # With several replicas on CPUs the compiled step fails: the optimizer applies the gradients
        # of all replicas at once, and a replica's variables are on another device than the step
        # ("Trying to access resource ... replica_1"). For GPUs TensorFlow has another way, which
        # was never tried here, so auto does not depend on it.
        return replicas == 1 and bool(tf.config.list_physical_devices("GPU"))
    return config.jit_compile == "on"


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    optimizer = getattr(keras.optimizers, OPTIMIZERS[config.optimizer])(
        config.learning_rate, global_clipnorm=config.clip_norm or None
    )
    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def _resume(run: _Run, state: workdir.RunState, checkpoint: tf.train.Checkpoint) -> None:
    path = workdir.checkpoint_path(run.folder, state.epochs_done)
    with workdir.restoring(path) as plain:
        checkpoint.read(plain).assert_consumed()
    print(f"resuming after epoch {state.epochs_done} of {run.config.epochs}", flush=True)
    if run.cluster.is_chief:
        workdir.write_history(run.folder, state)


def _fit(
    run: _Run,
    model: Autoencoder,
    state: workdir.RunState,
    checkpoint: tf.train.Checkpoint,
    until: int,
) -> None:
    config, is_chief = run.config, run.cluster.is_chief
    done, size = state.epochs_done, config.batch_size
    batches = _train_batches(run, range(done, until))
    validation = data.evaluation_batches(run.data.validation, batch_size=size, fields=_fields(run))
    shown = next(iter(validation.take(1)))["image"][:_SHOWN]
    # A bar on a terminal, otherwise a line for each epoch.
    on_terminal = sys.stderr.isatty()
    with tempfile.TemporaryDirectory(prefix="trainer-") as scratch:
        # All workers must take part in reading the variables, but only the chief's files are kept.
        folder = run.folder if is_chief else pathlib.Path(scratch)
        tensorboard = folder / "tensorboard"
        bar = [callbacks.ProgressBar(size, done)] if is_chief and on_terminal else []
        profile = [callbacks.Profile(tensorboard, config.profile_steps)]
        model.fit(
            _dealt(batches, size, run.strategy),
            steps_per_epoch=config.steps_per_epoch or run.data.train.slices // size,
            validation_data=_dealt(validation, size, run.strategy),
            validation_steps=-(-run.data.validation.slices // size),
            initial_epoch=done,
            epochs=until,
            verbose=2 if is_chief and not on_terminal else 0,
            callbacks=[
                *bar,
                *(profile if is_chief and config.profile_steps else []),
                callbacks.StepRates(config, state),
                callbacks.FiniteLoss(run.folder, functools.partial(_keys_of, run)),
                callbacks.EpochEnd(config, folder, state, checkpoint),
                callbacks.TensorBoard(tensorboard, state, shown),
            ],
        )


def _fields(run: _Run) -> tuple[str, ...]:
    """The fields of slices that a step needs."""
    return ("image",) if run.config.task == "reconstruct" else ("image", "mask")


def _train_batches(
    run: _Run, epochs: range, fields: Sequence[str] | None = None
) -> tf.data.Dataset:
    config = run.config
    return data.train_batches(
        run.data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=epochs,
        steps=config.steps_per_epoch,
        cache=config.cache,
        fields=fields or _fields(run),
    )


def _keys_of(run: _Run, epoch: int, step: int) -> list[str]:
    """The keys of the slices of a global batch; epoch and step count from 0."""
    batches = _train_batches(run, range(epoch, epoch + 1), ("key",))
    (batch,) = batches.skip(step).take(1)
    return [key.decode() for key in batch["key"].numpy()]


def _dealt(batches: tf.data.Dataset, batch_size: int, strategy: tf.distribute.Strategy) -> Any:
    """Divide global batches among all replicas of all workers."""
    if strategy.num_replicas_in_sync == 1:
        return batches

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        pieces = context.num_replicas_in_sync
        here = pieces // context.num_input_pipelines
        first = context.input_pipeline_id * here
        mine = range(first, first + here)
        return data.share(batches, batch_size=batch_size, pieces=pieces, mine=mine)

    return strategy.distribute_datasets_from_function(of_worker)


def _export_best(run: _Run, state: workdir.RunState) -> Outcome:
    best = state.history[state.best_epoch - 1]
    # A new network: float32 and without mirrored variables, unlike the trained one. Its layers are
    # numbered from the beginning, so that a resumed run exports the same bytes.
    keras.backend.reset_uids()
    size = run.data.train.size
    marks = tasks.TASKS[run.config.task].marks
    build_network = functools.partial(models.build, run.config.model, size, marks=marks)
    network = build_network()
    path = workdir.checkpoint_path(run.folder, state.best_epoch)
    with workdir.restoring(path) as plain:
        restored = tf.train.Checkpoint(network=network).read(plain)
        restored.assert_existing_objects_matched().expect_partial()
    if run.config.export_half:
        network = half.in_half(network, build_network)
    made = card.make_card(
        run.config,
        run.data,
        run.config.corruptions,
        parameters=network.count_params(),
        best=best,
        epochs_trained=state.epochs_done,
    )
    folder = run.folder / "export" / run.config.model.name / "1"
    saved_model.export(
        network,
        folder,
        size=size,
        scaling=run.data.scaling,
        card=made,
        plane=run.data.place.plane if run.data.place else None,
        marks=marks,
    )
    return Outcome(best, folder)
