"""One step of training and of validation, against numbers worked out here."""

import numpy as np
import pytest
import skimage.metrics
import tensorflow as tf
from tensorflow import keras

from ixi_tfds.images.scaling import to_unit
from trainer import augmentation, autoencoder, losses

RATE = 0.5


class Gain(keras.layers.Layer):
    """Multiplies by one weight, and notes whether it is told to train."""

    def __init__(self):
        super().__init__()
        self.told = set()

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones", dtype=tf.float32)

    def call(self, inputs, training=None):
        self.told.add(training)
        return tf.cast(self.gain, inputs.dtype) * inputs


def a_model(gain=1.0, *, optimizer=None, batch_size=4, seed=3, **options):
    layer = Gain()
    network = keras.Sequential([layer])
    network.build((None, 16, 16, 1))
    layer.gain.assign(gain)
    layer.told.clear()
    options.setdefault("augment", None)
    model = autoencoder.Autoencoder(
        network, losses.mse, batch_size=batch_size, seed=seed, **options
    )
    model.compile(optimizer=optimizer or keras.optimizers.SGD(RATE), jit_compile=False)
    return model, layer


def slices(number):
    return np.random.default_rng(number).integers(0, 256, (number, 16, 16, 1)).astype(np.uint8)


def unit(images):
    return images.astype(np.float64) / 255


def dealt(images, size, fill=0):
    """Batches as the input pipeline deals them; `fill` black rows make the last one whole."""
    index = np.concatenate([np.arange(len(images)), np.full(fill, -1)])
    images = np.concatenate([images, np.zeros((fill, *images.shape[1:]), np.uint8)])
    return tf.data.Dataset.from_tensor_slices({"image": images, "index": index}).batch(size)


def test_eight_bits_become_the_range_from_0_to_1():
    unit_images = to_unit(tf.constant([[0, 1, 128, 255]], tf.uint8))
    assert unit_images.dtype == tf.float32
    np.testing.assert_array_equal(unit_images, np.float32([[0, 1, 128, 255]]) / np.float32(255))


@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_a_replica_contributes_its_rows_share_of_the_global_batch(batch_size):
    """Its gradient is added to those of the others, whose rows count as much."""
    images = slices(4)
    model, layer = a_model(0.5, batch_size=batch_size)
    model.fit(dealt(images, 4), verbose=0)
    # The loss of an image is mean((gain x - x)^2).
    gradients = 2 * (0.5 - 1) * np.mean(unit(images) ** 2, axis=(1, 2, 3))
    assert layer.gain.numpy() == pytest.approx(0.5 - RATE * gradients.sum() / batch_size, rel=1e-5)
    assert layer.told == {True}


def test_a_scaled_loss_moves_the_weights_as_an_unscaled_one():
    images = slices(4)
    scaled = keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(RATE), dynamic=False, initial_scale=1024
    )
    (plain, one), (other, two) = a_model(0.5), a_model(0.5, optimizer=scaled)
    for model in (plain, other):
        report = model.fit(dealt(images, 4), verbose=0).history
        assert report["loss"] == pytest.approx([0.25 * np.mean(unit(images) ** 2)], rel=1e-5)
    assert two.gain.numpy() == pytest.approx(one.gain.numpy(), rel=1e-6)
    assert abs(one.gain.numpy() - 0.5) > 0.05
    # It is what keeps small gradients of 16 bits from becoming 0: there is a scale at all.
    seen = []
    scaled.get_scaled_loss = lambda loss, works=scaled.get_scaled_loss: (
        seen.append(works(loss) / loss) or works(loss)
    )
    other.run_eagerly = True
    other.train_step(next(iter(dealt(images, 4))))
    assert [float(ratio) for ratio in seen] == [1024]


def test_training_reports_the_mean_over_all_slices_of_the_epoch():
    images = slices(8)
    model, _ = a_model(0.5, optimizer=keras.optimizers.SGD(0.0))
    report = model.fit(dealt(images, 4), epochs=2, verbose=0).history
    clean = unit(images)
    each = np.mean((0.5 * clean - clean) ** 2, axis=(1, 2, 3))
    # The second epoch begins anew.
    assert report["loss"] == pytest.approx([each.mean()] * 2, rel=1e-5)
    assert report["psnr"] == pytest.approx([np.mean(-10 * np.log10(each))] * 2, rel=1e-5)
    assert report.keys() == {"loss", "psnr"}


@pytest.mark.parametrize("fill", [0, 1])
def test_validation_is_the_mean_over_its_slices_and_fill_up_rows_count_nothing(fill):
    images = slices(7)
    model, layer = a_model(0.5)
    report = model.evaluate(dealt(images, 4, fill), verbose=0, return_dict=True)
    clean = unit(images)[..., 0]
    each = np.mean((0.5 * clean - clean) ** 2, axis=(1, 2))
    expected = {
        "loss": each.mean(),
        "psnr": np.mean(-10 * np.log10(each)),
        "ssim": np.mean(
            [
                skimage.metrics.structural_similarity(
                    image,
                    0.5 * image,
                    data_range=1,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                for image in clean
            ]
        ),
    }
    assert report == pytest.approx(expected, rel=2e-4)
    # Running statistics, not those of the batch; and nothing is learned from these slices.
    assert layer.told == {False} and layer.gain.numpy() == 0.5


def test_corrupted_validation_is_scored_beside_the_clean_one():
    images, fill = slices(7), 1
    config = augmentation.AugmentationConfig(blur_sigmas=(1.0,), gaussian_noise=0.1)
    model, layer = a_model(augment=config, augment_validation=True, seed=3)
    reports = [
        model.evaluate(dealt(images, 4, fill), verbose=0, return_dict=True) for _ in range(2)
    ]
    clean = unit(images).astype(np.float32)

    def corrupted_loss(seed):
        each = []
        for first in (0, 4):
            rows = slice(first, min(first + 4, 7))
            inputs = augmentation.augment(
                clean[rows],
                tf.range(rows.start, rows.stop, dtype=tf.int64),
                config=config,
                seed=seed,
                batch_size=4,
            ).numpy()
            each += list(np.mean((inputs - clean[rows]) ** 2, axis=(1, 2, 3)))
        return np.mean(each)

    # The loss is that of the clean slice; the corruptions are others than those of training, whose
    # seed is 3, and the same each time.
    assert corrupted_loss(4) != pytest.approx(corrupted_loss(3), rel=0.01)
    for report in reports:
        assert report["loss_augmented"] == pytest.approx(corrupted_loss(4), rel=1e-4)
        assert report["loss"] == pytest.approx(0, abs=1e-9)
        assert report["psnr"] == 100 and report["ssim"] == pytest.approx(1)
    assert layer.told == {False}


def test_without_augmentation_of_validation_none_is_reported():
    config = augmentation.AugmentationConfig(blur_sigmas=())
    for options in ({"augment": config}, {"augment": None, "augment_validation": True}):
        model, _ = a_model(**options)
        report = model.evaluate(dealt(slices(4), 4), verbose=0, return_dict=True)
        assert report.keys() == {"loss", "psnr", "ssim"}


def test_training_sees_other_corruptions_in_each_epoch_and_by_each_seed():
    images = slices(4)
    found = []
    for seed in (3, 4):
        config = augmentation.AugmentationConfig(blur_sigmas=(), gaussian_noise=0.2)
        model, _ = a_model(optimizer=keras.optimizers.SGD(0.0), augment=config, seed=seed)
        batches = dealt(np.concatenate([images, images]), 4)
        means = []
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, means=means: means.append(logs["loss"])
        )
        model.fit(batches, verbose=0, callbacks=[note])
        # Of the running means, the second step's own.
        found += [means[0], 2 * means[1] - means[0]]
    assert len({round(value, 5) for value in found}) == 4 and min(found) > 0.005


def test_the_psnr_of_training_is_against_the_clean_slice():
    images = slices(4)
    config = augmentation.AugmentationConfig(blur_sigmas=(), gaussian_noise=0.2)
    model, _ = a_model(optimizer=keras.optimizers.SGD(0.0), augment=config)
    report = model.fit(dealt(images, 4), verbose=0).history
    clean = unit(images).astype(np.float32)
    keep = {"config": config, "seed": 3, "batch_size": 4}
    inputs = augmentation.augment(clean, tf.range(4, dtype=tf.int64), **keep).numpy()
    each = np.mean((inputs - clean) ** 2, axis=(1, 2, 3))
    assert report["loss"] == pytest.approx([each.mean()], rel=1e-4)
    assert report["psnr"] == pytest.approx([np.mean(-10 * np.log10(each))], rel=1e-4)


@pytest.fixture
def float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def a_float16_model(optimizer):
    model, layer = a_model(optimizer=optimizer)
    model.network = keras.Sequential([layer, keras.layers.Activation("linear", dtype="float32")])
    model.network.build((None, 16, 16, 1))
    model.loss_of = lambda clean, other: 2e-6 * tf.reduce_mean(other, axis=(1, 2, 3))
    return model, layer


def test_gradients_of_float16_do_not_vanish(float16):
    """2e-6 over the pixels of a batch is 0 in float16; with the loss scaled it is not."""
    sgd = keras.optimizers.SGD(1e4)
    model, layer = a_float16_model(keras.mixed_precision.LossScaleOptimizer(sgd))
    model.fit(dealt(slices(4), 4), verbose=0)
    assert 1 - float(layer.gain.numpy()) == pytest.approx(2e-2 * unit(slices(4)).mean(), rel=0.25)
