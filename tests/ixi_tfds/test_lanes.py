"""What is made in place of tensorflow-addons, beside tensorflow-addons."""

import time

import numpy as np
import pytest
import tensorflow as tf
import tqdm.std

from ixi_tfds import lanes
from ixi_tfds.images.corruptions import CORRUPTIONS, gaussian_blur
from trainer import callbacks

needs_addons = pytest.mark.skipif(lanes.NAME != "classic", reason="tensorflow-addons")
SIGMAS = (*CORRUPTIONS["blur"].severities, 0.3, 1.7, 5.0)


@needs_addons
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("shape", [(2, 32, 48, 1), (2, 33, 47, 3)])
def test_the_blur_is_that_of_tensorflow_addons(sigma, shape, monkeypatch):
    images = np.random.default_rng(0).random(shape, np.float32)
    theirs = gaussian_blur(tf.constant(images), sigma)
    monkeypatch.setattr(lanes, "NAME", "current")
    ours = gaussian_blur(tf.constant(images), sigma)
    assert ours.dtype == theirs.dtype
    difference = np.abs(ours.numpy() - theirs.numpy()).max()
    print(f"sigma {sigma}: off by {difference:.1e}")
    assert difference < 1e-6 and np.abs(theirs.numpy() - images).max() > 1e-3


@needs_addons
@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (1, 8), (7, 1)])
@pytest.mark.parametrize(
    ("dtype", "within"), [("float64", 1e-6), ("float32", 1e-6), ("float16", 2e-3)]
)
def test_so_is_the_filter_for_other_kernels_and_types(shape, dtype, within):
    images = tf.constant(np.random.default_rng(0).random((2, 20, 31, 1)).astype(dtype))
    theirs = lanes.gaussian_filter(images, shape, 1.3)
    ours = lanes.convolve_with_gaussian(images, shape, 1.3)
    assert ours.dtype == theirs.dtype == dtype
    assert np.abs(ours.numpy() - theirs.numpy()).max() <= within


def shown(lane, monkeypatch, capsys):
    """What the trainer's bar shows of two epochs, in the seconds of a clock of our own."""
    now = 1000.0
    for owner, name in ((time, "time"), (time, "monotonic"), (tqdm.std, "time")):
        monkeypatch.setattr(owner, name, lambda: now)
    monkeypatch.setattr(lanes, "NAME", lane)
    callbacks.ProgressBar.__bases__ = (lanes.progress_bar(),)
    bar = callbacks.ProgressBar(batch_size=8, first_epoch=1)
    bar.set_params({"epochs": 3, "steps": 5})
    bar.on_train_begin()
    for epoch in (1, 2):
        bar.on_epoch_begin(epoch)
        for step, seconds in enumerate((0.1, 0.2, 1.5, 0.05, 3.0)):
            now += seconds
            bar.on_train_batch_end(step, {"loss": 0.5 / (step + 1), "psnr": 20.0 + step})
        now += 1
        bar.on_test_begin()
        bar.on_test_batch_end(0, {"loss": 0.4})
        bar.on_test_end({"loss": 0.4})
        bar.on_epoch_end(epoch, {"loss": 0.1, "psnr": 24.0, "val_loss": 0.4, "val_psnr": 19.5})
    bar.on_train_end()
    monkeypatch.undo()
    return capsys.readouterr()


@needs_addons
def test_the_progress_bar_shows_what_that_of_tensorflow_addons_shows(monkeypatch, capsys):
    before = callbacks.ProgressBar.__bases__
    try:
        theirs, ours = (shown(lane, monkeypatch, capsys) for lane in lanes.NAMES)
    finally:
        callbacks.ProgressBar.__bases__ = before
    assert ours.out == theirs.out == "Epoch 2/3\nEpoch 3/3\n"
    assert ours.err == theirs.err
    frames = theirs.err.split("\r")
    assert "2/5 |" in theirs.err and "val_psnr 19.5" in frames[-1] and len(frames) > 8
