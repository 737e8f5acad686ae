"""Images a second in training: our step with augmentation against rivals without.

Same layers, loss, optimizer and batches, the Small model unless told otherwise. Ours is what the
trainer runs: MirroredStrategy, deterministic operations, corruptions drawn and applied in the step,
PSNR in the progress bar. Keras's is `fit` of a model that it made itself of the same layers, from
float32 pairs, with nothing of ours. With `--rivals=pytorch`, the same network in PyTorch: eager,
with channels last, and compiled with channels last, all with glibc kept from giving memory back to
the kernel, which speeds PyTorch up and TensorFlow not. `--rivals=bfloat16` has ours and PyTorch's
best in bfloat16. `--rivals=lane` has ours in the other lane of packages, in whose environment this
checkout is installed too (`make setup PYTHON=...`).

Each has a process of its own; rounds of a few steps alternate, and the ratio is taken round by
round, for two-thread speed on small machines wanders by half.

    .venv/bin/python benchmarks/step.py [--rivals=keras] [--rounds=40] [--side=256]
      [--batch_size=8] [--steps=2]

PyTorch gets an environment of its own, made in `.rivals` at the first run.
"""

import argparse
import contextlib
import functools
import sys
import time

import numpy as np
import rounds as shared

STAGES = {"small_resnet": (2, 1, 1), "big_resnet": (2, 2, 4)}
"""Residual blocks of each stage."""


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


def ours(arguments, policy="float32", *, augment=True, jit=False):
    """The trainer's model, as the trainer builds it."""
    import ixi_tfds  # noqa: F401, I001 - chooses Keras before TensorFlow is imported
    import tensorflow as tf
    from tensorflow import keras

    from trainer import augmentation, losses, models
    from trainer.autoencoder import Autoencoder
    from trainer.distribution import make_strategy

    keras.utils.set_random_seed(0)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(policy)
    images = _images(arguments)
    with make_strategy(0).scope():
        model = Autoencoder(
            models.build(models.ModelSpec(name=arguments.model), (arguments.side, arguments.side)),
            losses.mse,
            batch_size=arguments.batch_size,
            seed=0,
            augment=augmentation.AugmentationConfig() if augment else None,
        )
        model.compile(optimizer=keras.optimizers.RMSprop(1e-3), jit_compile=jit)
    batches = tf.data.Dataset.from_tensor_slices(
        {"image": images, "index": np.arange(len(images), dtype=np.int64)}
    )
    batches = batches.repeat().batch(arguments.batch_size, drop_remainder=True).prefetch(2)
    _fit(model, batches, arguments.steps)


def keras_fit(arguments):
    """The same layers in a functional model of Keras, compiled and fitted as its guide has it."""
    import ixi_tfds  # noqa: F401, I001 - chooses Keras before TensorFlow is imported
    import tensorflow as tf
    from tensorflow import keras

    from trainer import models

    keras.utils.set_random_seed(0)
    network = models.build(models.ModelSpec(name=arguments.model), (arguments.side, arguments.side))
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


def _torch_network(stage_blocks):
    """The same layers in PyTorch, 3x3 convolutions padded as Keras pads them."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before, filters, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, filters, 3, stride, 1, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
                nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
                nn.BatchNorm2d(filters),
            )
            projects = stride != 1 or before != filters
            self.shortcut = nn.Identity()
            if projects:
                one = nn.Conv2d(before, filters, 1, stride, bias=False)
                self.shortcut = nn.Sequential(one, nn.BatchNorm2d(filters))

        def forward(self, values):
            return nn.functional.relu(self.body(values) + self.shortcut(values))

    layers, before = [nn.Conv2d(1, 32, 3, 2, 1, bias=False)], 32
    for filters, count in zip((64, 128, 256), stage_blocks, strict=True):
        for number in range(count):
            layers.append(Block(before, filters, 1 if number else 2))
            before = filters
    for filters in (256, 128, 64, 32):
        up = nn.ConvTranspose2d(before, filters, 3, 2, 1, output_padding=1, bias=False)
        layers += [up, nn.BatchNorm2d(filters), nn.ReLU()]
        before = filters
    return nn.Sequential(*layers, nn.Conv2d(32, 1, 3, 1, 1, bias=False))


def pytorch(arguments, *, last=False, compiled=False, bfloat16=False):
    """A plain training loop of PyTorch."""
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _torch_network(STAGES[arguments.model]).train().to(device)
    images = torch.from_numpy(_images(arguments)).permute(0, 3, 1, 2).float().to(device) / 255
    if last:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    made = sum(weights.numel() for weights in network.parameters())
    optimizer = torch.optim.RMSprop(network.parameters(), 1e-3, alpha=0.9, eps=1e-7)
    forward = torch.compile(network) if compiled else network
    batches = images.split(arguments.batch_size)
    print(f"{made} parameters that learn", flush=True)

    def seconds():
        started = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                loss = torch.nn.functional.mse_loss(forward(batch), batch)
            loss.backward()
            optimizer.step()
            loss.item()
        return time.perf_counter() - started

    shared.serve(seconds)


WAYS = {
    "ours": ours,
    "ours, other lane": ours,
    "ours, bfloat16": functools.partial(ours, policy="mixed_bfloat16"),
    "Keras": keras_fit,
    "PyTorch, eager": pytorch,
    "PyTorch, channels last": functools.partial(pytorch, last=True),
    "PyTorch, compiled": functools.partial(pytorch, last=True, compiled=True),
    "PyTorch, bfloat16": functools.partial(pytorch, last=True, compiled=True, bfloat16=True),
}
RIVALS = {
    "keras": ("ours", "Keras"),
    "lane": ("ours", "ours, other lane"),
    "pytorch": ("ours", "PyTorch, eager", "PyTorch, channels last", "PyTorch, compiled"),
    "bfloat16": ("ours, bfloat16", "ours", "PyTorch, compiled", "PyTorch, bfloat16"),
}
"""What is compared with each other; ratios are to the first."""


def measure(names, command, arguments):
    """Images a second of each way, by name, and the ratios of the others to the first."""
    with contextlib.ExitStack() as stack:
        processes = []
        for name in names:
            python, settings = sys.executable, None
            if name.startswith("PyTorch"):
                python, settings = shared.torch_python(), shared.KEEP_MEMORY
            elif name == "ours, other lane":
                python = shared.other_lane_python()
            rival = shared.Rival([python, *command, f"--way={name}"], settings)
            processes.append(stack.enter_context(rival))
        seconds = shared.alternate(processes, arguments.rounds)
    images = arguments.batch_size * arguments.steps
    speeds = dict(zip(names, images / np.median(seconds, axis=0), strict=True))
    ratios = {
        name: shared.median_with_interval(seconds[:, place] / seconds[:, 0])
        for place, name in enumerate(names[1:], start=1)
    }
    return speeds, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rivals", choices=RIVALS, default="keras")
    parser.add_argument("--rounds", type=shared.several, default=40)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", choices=STAGES, default="small_resnet")
    parser.add_argument("--way", choices=WAYS, help="be this one; for the benchmark itself")
    arguments = parser.parse_args()
    if arguments.way:
        WAYS[arguments.way](arguments)
        return
    names = RIVALS[arguments.rivals]
    speeds, ratios = measure(names, [*sys.argv], arguments)
    for name, speed in speeds.items():
        print(f"{name:<24}{speed:8.2f} images/s")
    for name, ratio in ratios.items():
        print("{} against {}: {:.3f} ({:.3f} to {:.3f})".format(names[0], name, *ratio))
    small = arguments.model == "small_resnet"
    shared.record(
        f"step, {arguments.rivals}" + ("" if small else f", {arguments.model}"),
        images_a_second=speeds,
        times_as_fast=ratios,
        rounds=arguments.rounds,
        setting=f"{arguments.model}, {arguments.side}x{arguments.side}, "
        f"batch {arguments.batch_size}, {arguments.steps} steps a round",
    )


if __name__ == "__main__":
    main()
