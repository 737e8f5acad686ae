"""One training run, from a config to an exported model."""

import dataclasses
import pathlib
import sys

import tensorflow as tf
from tensorflow import keras

from ixi_tfds.errors import UserError
from trainer import (
    augmentation,
    callbacks,
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


def make_strategy(replicas: int) -> tf.distribute.MirroredStrategy:
    """Mirror over `replicas` devices; 0 takes every GPU, or the CPU as one.

    Without a GPU the CPU is divided into as many logical devices as are asked for, which is no
    faster but lets distribution be tried anywhere.

    Raises:
      UserError: there are not as many GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if replicas > len(gpus) > 0:
        raise UserError(f"--replicas={replicas}: there are {len(gpus)} GPUs only")
    if gpus:
        return tf.distribute.MirroredStrategy(
            [f"GPU:{number}" for number in range(replicas or len(gpus))]
        )
    cpu = tf.config.list_physical_devices("CPU")[0]
    if replicas > 1 and len(tf.config.get_logical_device_configuration(cpu) or [0]) < replicas:
        pieces = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, pieces)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas or 1)])


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


def train(config: TrainConfig) -> Outcome:
    """Train, or go on training, and export the best weights.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder.
    """
    return _export_best(config, *_train(config, config.epochs))


def train_until(config: TrainConfig, epoch: int) -> state.RunState:
    """Train, or go on training, until so many of the config's epochs are done; export nothing.

    Raises:
      UserError: the config does not fit the dataset, the devices or the working folder.
      DivergedError: the loss is no longer a number.
    """
    return _train(config, epoch)[0]


def _train(config: TrainConfig, until: int) -> tuple[state.RunState, sources.Sources]:
    data = sources.open_sources(config.data_dir, config.datasets)
    strategy = make_strategy(config.replicas)
    replicas = strategy.num_replicas_in_sync
    _check(config, replicas, data.train)
    weights = pretrained.read_resnet50(config.weights) if config.rgb else None
    claim_workdir(config, data.fingerprint)

    keras.utils.set_random_seed(config.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_precision(config))
    try:
        with strategy.scope():
            model = build(config, data.train.size, weights)
        print(
            f"{config.dataset}: {data.train.slices:,} slices to train on, "
            f"{data.validation.slices:,} to validate; {config.model} with "
            f"{model.network.count_params():,} parameters on {replicas} replica(s)",
            flush=True,
        )
        run_state = _fit(config, model, data, until)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    return run_state, data


def _fit(
    config: TrainConfig, model: Autoencoder, data: sources.Sources, until: int
) -> state.RunState:
    workdir = pathlib.Path(config.workdir)
    run_state = state.read_state(workdir, config.learning_rate)
    done = run_state.epochs_done
    checkpoint = tf.train.Checkpoint(network=model.network, optimizer=model.optimizer)
    if done:
        path = state.checkpoint_path(workdir, done)
        checkpoint.read(str(path)).assert_consumed()
        state.write_history(workdir, run_state)
        print(f"going on after epoch {done} of {config.epochs}", flush=True)
    if done >= until:
        return run_state
    validation = input_pipeline.evaluation_batches(data.validation, batch_size=config.batch_size)
    shown = next(iter(validation.take(1)))["image"][:_SHOWN]
    tensorboard = workdir / "tensorboard"
    profile = callbacks.Profile(tensorboard, config.profile_steps)
    # A bar on a terminal, a line an epoch where the output goes to a file.
    on_terminal = sys.stderr.isatty()
    model.fit(
        input_pipeline.train_batches(
            data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            epochs=range(done, until),
            cache=config.cache,
        ),
        steps_per_epoch=input_pipeline.steps_per_epoch(data.train, config.batch_size),
        validation_data=validation,
        initial_epoch=done,
        epochs=until,
        verbose=0 if on_terminal else 2,
        callbacks=[
            *([callbacks.ProgressBar(config.batch_size, done)] if on_terminal else []),
            *([profile] if config.profile_steps else []),
            callbacks.EpochEnd(
                workdir,
                run_state,
                checkpoint,
                config.monitored,
                schedule=config.schedule,
                epochs=config.epochs,
            ),
            callbacks.TensorBoard(tensorboard, run_state, shown),
        ],
    )
    return run_state


def _export_best(config: TrainConfig, run_state: state.RunState, data: sources.Sources) -> Outcome:
    workdir = pathlib.Path(config.workdir)
    best = run_state.history[run_state.best_epoch - 1]
    # A network of its own: float32 and without mirrored variables, whatever training used. Its
    # layers' names count from the beginning, so that a resumed run exports the same bytes.
    keras.backend.reset_uids()
    size = data.train.size
    network = _network(config, size)
    path = state.checkpoint_path(workdir, run_state.best_epoch)
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
