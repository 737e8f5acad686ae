"""Images a second in training: our step with augmentation against plain Keras `fit` without.

Same layers, loss, optimizer and batches. Ours is what the trainer runs: MirroredStrategy,
deterministic operations, corruptions drawn and applied in the step, PSNR in the progress bar.
Keras's is `fit` of a model that it made itself of the same layers, from float32 pairs, with nothing
of ours. Each has a process of its own; rounds of a few steps alternate, and the ratio is taken
round by round, for two-thread speed on small machines wanders by half.

    .venv/bin/python benchmarks/step.py [--rounds=40] [--side=256] [--batch_size=8] [--steps=2]
"""

import argparse
import sys
import time

import numpy as np
import rounds as shared


def _images(arguments):
    shape = (arguments.batch_size * arguments.steps, arguments.side, arguments.side, 1)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _fit(model, batches, steps):
    """One long `fit` that pauses for its turn: what it takes to begin is no part of a step."""
    from tensorflow import keras

    class Rounds(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch % steps == 0:
                if not shared.asked():
                    self.model.stop_training = True
                self.started = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            if batch % steps == steps - 1:
                shared.answer(time.perf_counter() - self.started)

    model.fit(batches, steps_per_epoch=10**9, verbose=0, callbacks=[Rounds()])


def ours(arguments):
    """The trainer's model, as the trainer builds it."""
    import tensorflow as tf
    from tensorflow import keras

    from trainer import augmentation, losses, models
    from trainer.autoencoder import Autoencoder
    from trainer.distribution import make_strategy

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    images = _images(arguments)
    with make_strategy(0).scope():
        model = Autoencoder(
            models.build(arguments.model, (arguments.side, arguments.side)),
            losses.make_loss("mse", dssim_weight=0.0),
            batch_size=arguments.batch_size,
            seed=0,
            augment=augmentation.AugmentationConfig(),
        )
        model.compile(optimizer=keras.optimizers.RMSprop(1e-3), jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices(
        {"image": images, "index": np.arange(len(images), dtype=np.int64)}
    )
    batches = batches.repeat().batch(arguments.batch_size, drop_remainder=True).prefetch(2)
    _fit(model, batches, arguments.steps)


def keras_fit(arguments):
    """The same layers in a functional model of Keras, compiled and fitted as its guide has it."""
    import tensorflow as tf
    from tensorflow import keras

    from trainer import models

    keras.utils.set_random_seed(0)
    network = models.build(arguments.model, (arguments.side, arguments.side))
    inputs = keras.Input((arguments.side, arguments.side, 1))
    values = network.stem(inputs)
    for layer in [*network.blocks, *network.decoder.blocks, network.decoder.convolution]:
        values = layer(values)
    model = keras.Model(inputs, values)
    model.compile(optimizer=keras.optimizers.RMSprop(1e-3), loss="mse")
    images = _images(arguments).astype(np.float32) / 255
    batches = tf.data.Dataset.from_tensor_slices((images, images))
    batches = batches.repeat().batch(arguments.batch_size, drop_remainder=True).prefetch(2)
    _fit(model, batches, arguments.steps)


RIVALS = {"ours": ours, "keras": keras_fit}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--rival", choices=RIVALS, help="be this one; for the benchmark itself")
    arguments = parser.parse_args()
    if arguments.rival:
        RIVALS[arguments.rival](arguments)
        return
    command = [sys.executable, *sys.argv]
    with (
        shared.Rival([*command, "--rival=ours"]) as us,
        shared.Rival([*command, "--rival=keras"]) as them,
    ):
        seconds = shared.alternate([us, them], arguments.rounds)
    images = arguments.batch_size * arguments.steps
    speeds = dict(zip(RIVALS, images / np.median(seconds, axis=0), strict=True))
    ratio = shared.median_with_interval(seconds[:, 1] / seconds[:, 0])
    for name, speed in speeds.items():
        print(f"{name:<6}{speed:8.2f} images/s")
    print(
        "ours with augmentation against plain Keras without: {:.3f} ({:.3f} to {:.3f})".format(
            *ratio
        )
    )
    shared.record(
        "step",
        images_a_second=speeds,
        ratio_to_plain_keras=ratio,
        rounds=arguments.rounds,
        setting=f"{arguments.model}, {arguments.side}x{arguments.side}, "
        f"batch {arguments.batch_size}, {arguments.steps} steps a round",
    )


if __name__ == "__main__":
    main()
