import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from ixi_tfds.system import flags
from ixi_tfds.system.errors import UserError
from trainer import autoencoder, losses, models
from trainer.config import TrainConfig
from trainer.models import blocks, networks, pretrained


def built(name, size, **settings):
    return models.build(models.ModelSpec(name=name, **settings), size)


@pytest.mark.parametrize(
    ("name", "rgb", "parameters"),
    [
        ("small_resnet", False, 2_263_232),
        ("big_resnet", False, 6_104_256),
        ("resnet50", False, 34_589_600),
        ("resnet50", True, 34_596_448),
        ("resnet50_add13", False, 11_331_488),
        ("resnet50_add13", True, 11_338_336),
        ("resnet50_act40", False, 11_331_488),
        ("resnet50_act40", True, 11_338_336),
    ],
)
def test_parameters_are_those_of_the_thesis(name, rgb, parameters):
    network = built(name, (256, 256), weights="imagenet" if rgb else "none")
    assert network.count_params() == parameters
    shape = network.compute_output_shape((8, 256, 256, 1))
    assert shape == (8, 256, 256, 3 if rgb else 1)


def test_the_page_lists_the_models_with_parameters_layers_and_sides():
    page = (pathlib.Path(__file__).parents[3] / "docs/training.md").read_text()
    page = page[page.index("## Models\n") : page.index("## The thesis's runs")]
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if line[:3] == "| `"]
    rows = {name.strip("`"): told for name, _, *told in table if "resnet_like" not in name}
    assert {*rows, "resnet_like"} == models.MODELS.keys()
    for name, told in rows.items():
        network = built(name, (256, 256))
        if name.startswith("resnet50"):
            layers = [network.encoder]
        else:
            layers = network.down if name == "unet" else [network.stem, *network.blocks]
        values = tf.zeros((1, 256, 256, 1))
        for layer in layers:
            # A U-Net halves by pooling, before each pair of convolutions but the first.
            pooled = name == "unet" and layer is not layers[0]
            values = layer(tf.nn.max_pool2d(values, 2, 2, "VALID") if pooled else values)
        narrowest = "x".join(map(str, values.shape[1:]))
        stride = models.stride(models.ModelSpec(name=name))
        assert told == [f"{network.count_params():,}", narrowest, str(stride)]


def test_the_named_models_are_instances_of_the_general_one():
    same = built("resnet_like", (32, 32), stage_blocks=(2, 2, 4))
    assert same.count_params() == 6_104_256
    # Stem 9*16; stages 9*16*32 + 9*32*32 + 16*32 + 12*32 and 9*32*48 + 9*48*48 + 32*48 + 12*48;
    # decoder 9*48*8 + 9*8*8 + 9*8*4 + 9*4 and 4 a channel.
    sides = {"stem_filters": 16, "stage_filters": (32, 48), "stage_blocks": (1, 1)}
    network = built("resnet_like", (16, 24), **sides, upsampling_filters=(8, 8, 4))
    encoder = 144 + (4608 + 9216 + 512 + 384) + (13824 + 20736 + 1536 + 576)
    assert network.count_params() == encoder + (3456 + 576 + 288 + 36 + 4 * 20)
    assert network(np.zeros((2, 16, 24, 1), np.float32)).shape == (2, 16, 24, 1)
    mirrored = built("resnet_like", (16, 24), **sides)
    assert [block.convolution.filters for block in mirrored.decoder.blocks] == [48, 32, 16]


@pytest.mark.parametrize(
    ("name", "stages", "stride"),
    [
        ("small_resnet", 9, 16),
        ("resnet50", 9, 32),
        ("resnet50_add13", 9, 16),
        ("resnet_like", 2, 8),
    ],
)
def test_any_multiple_of_the_stride_keeps_its_size(name, stages, stride):
    spec = models.ModelSpec(name=name, stage_filters=(8,) * stages, stage_blocks=(1,) * stages)
    assert models.stride(spec) == stride
    size = (stride, 3 * stride)
    network = models.build(spec, size)
    assert network(np.zeros((2, *size, 1), np.float32)).shape == (2, *size, 1)


def test_bottleneck_is_a_sixteenth_of_the_side():
    network = built("big_resnet", (64, 64))
    values = network.stem(np.zeros((1, 64, 64, 1), np.float32))
    for block in network.blocks:
        values = block(values)
    assert values.shape == (1, 4, 4, 256)


@pytest.mark.parametrize(
    ("name", "shape", "signed"),
    [
        ("resnet50", (1, 2, 2, 2048), False),
        ("resnet50_add13", (1, 4, 4, 1024), True),
        ("resnet50_act40", (1, 4, 4, 1024), False),
    ],
)
def test_where_the_encoders_end(name, shape, signed):
    network = built(name, (64, 64))
    values = network.encoder(np.random.default_rng(0).random((1, 64, 64, 1), np.float32)).numpy()
    assert values.shape == shape
    # The addition comes before its ReLU, the activation after it.
    assert (values.min() < 0) == signed


def convolved(values, kernel, stride=1):
    """A convolution [H, W, C] with zeros around, as TensorFlow's "same" has them, by hand."""
    size, outputs = kernel.shape[0], [-(-side // stride) for side in values.shape[:2]]
    lacks = [(n - 1) * stride + size - side for n, side in zip(outputs, values.shape, strict=False)]
    around = [(max(n, 0) // 2, max(n, 0) - max(n, 0) // 2) for n in lacks]
    padded = np.pad(values, [*around, (0, 0)])
    result = np.zeros((*outputs, kernel.shape[3]))
    for row, column in np.ndindex(*outputs):
        window = padded[row * stride :, column * stride :][:size, :size]
        result[row, column] = np.tensordot(window, kernel, 3)
    return result


def upsampled(values, kernel):
    """A transposed convolution of stride 2: each value adds its multiple of the kernel."""
    height, width, _ = values.shape
    result = np.zeros((2 * height + 1, 2 * width + 1, kernel.shape[2]))
    for row, column in np.ndindex(height, width):
        stamp = np.tensordot(kernel, values[row, column], (3, 0))
        result[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += stamp
    return result[:-1, :-1]


def normalized(values, layer):
    share = (values - layer.moving_mean.numpy()) / np.sqrt(layer.moving_variance.numpy() + 1e-3)
    return share * layer.gamma.numpy() + layer.beta.numpy()


def relu(values):
    return np.maximum(values, 0)


def random_network(*shape, **sides):
    """A network whose weights are all random, moving statistics included."""
    network = built("resnet_like", shape, **sides)
    random = np.random.default_rng(0)
    for variable in network.variables:
        if "moving_variance" in variable.name:
            values = random.uniform(0.5, 2, variable.shape)
        elif "gamma" in variable.name:
            values = random.uniform(0.8, 1.6, variable.shape)
        elif variable.shape.rank == 1:
            values = random.normal(0, 0.2, variable.shape)
        else:
            # What comes in is still of weight at the end.
            values = random.normal(0, 2 * np.prod(variable.shape[:3]) ** -0.5, variable.shape)
        variable.assign(values)
    return network


def test_a_resnet_like_network_computes_what_the_thesis_describes():
    """Stem without activation; blocks that add their input before the last ReLU; a bare end."""
    network = random_network(8, 16, stem_filters=2, stage_filters=(3, 4), stage_blocks=(2, 1))
    image = np.random.default_rng(1).normal(size=(8, 16, 1)).astype(np.float32)
    values = convolved(image, network.stem.kernel.numpy(), 2)
    assert values.min() < 0
    for block, stride in zip(network.blocks, (2, 1, 2), strict=True):
        first = convolved(values, block.convolution_1.kernel.numpy(), stride)
        first = relu(normalized(first, block.normalization_1))
        second = convolved(first, block.convolution_2.kernel.numpy())
        if stride == 2:
            values = convolved(values, block.shortcut_convolution.kernel.numpy(), 2)
            values = normalized(values, block.shortcut_normalization)
        values = relu(normalized(second, block.normalization_2) + values)
    assert values.shape == (1, 2, 4)
    for block in network.decoder.blocks:
        values = upsampled(values, block.convolution.kernel.numpy())
        values = relu(normalized(values, block.normalization))
    expected = convolved(values, network.decoder.convolution.kernel.numpy())
    assert expected.min() < 0 and expected.max() > 0
    found = network(image[None], training=False)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_training_moves_the_statistics_of_every_normalization():
    network = random_network(8, 8, stem_filters=2, stage_filters=(3,), stage_blocks=(2,))
    moving = [variable for variable in network.variables if "moving" in variable.name]
    # Two blocks, one of them with a shortcut of its own, and two up-sampling blocks.
    assert len(moving) == 2 * (2 + 2 + 1 + 2)
    before = [variable.numpy() for variable in moving]
    images = np.random.default_rng(1).random((4, 8, 8, 1), np.float32)
    network(images, training=False)
    for variable, value in zip(moving, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    network(images, training=True)
    for variable, value in zip(moving, before, strict=True):
        assert (variable.numpy() != value).all(), variable.name


def test_grey_is_the_mean_of_the_channels_and_clipped_after_it():
    three = np.float32([[-3, 1, 3.5], [-1, 0, 0.4], [2, 1, 1.5], [0.25, 0.5, 0.9]])[:, None, None]
    grey = networks.to_grey(tf.constant(three)).numpy()
    np.testing.assert_allclose(grey[:, 0, 0], [[0.5], [0], [1], [0.55]], rtol=1e-6)
    one = np.float32([-0.5, 0.25, 1.5]).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(networks.to_grey(one)[:, 0, 0], [[0], [0.25], [1]])


def test_reconstructions_are_float32_in_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        for name in ("small_resnet", "resnet50_add13"):
            network = built(name, (16, 16))
            first = network.stem if name == "small_resnet" else network.encoder.layers[2]
            assert first.compute_dtype == "bfloat16"
            assert network(np.zeros((1, 16, 16, 1), np.float32)).dtype == np.float32
            assert {variable.dtype.name for variable in network.variables} == {"float32"}
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_flags_offer_what_there_is():
    offered = flags.flags_of(TrainConfig)
    assert offered["model"].choices is models.MODELS
    assert offered["loss"].choices is losses.LOSSES
    for name in models.MODELS:
        assert models.stride(models.ModelSpec(name=name)) in (8, 16, 32)


def test_flags_and_tables_do_not_wait_for_tensorflow():
    command = "import sys, trainer.train; assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_new_model_is_one_entry(monkeypatch):
    """One whose network is that of the others, and one with a network of its own."""

    def build(spec, marks):
        return keras.Sequential([keras.layers.Conv2D(spec.stem_filters + marks, 1)])

    tiny = models._resnet_like(stem_filters=4, stage_filters=(8,), stage_blocks=(1,))
    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    monkeypatch.setitem(models.MODELS, "flat", models.Model(build, lambda spec: 1))
    assert models.stride(models.ModelSpec(name="tiny")) == 4
    assert built("tiny", (4, 8)).stem.filters == 4
    assert built("flat", (3, 5), stem_filters=2)(np.zeros((1, 3, 5, 1))).shape == (1, 3, 5, 2)
    with pytest.raises(UserError, match="--model=flat takes none; only resnet50, resnet50_add13"):
        built("flat", (3, 5), weights="imagenet")


NARROW = """
import numpy as np
import tensorflow as tf
from tensorflow import keras
from trainer import models

images = np.random.default_rng(0).random((8, 128, 128, 1), np.float32)
for stem, policy in ((8, "float32"), (12, "float32"), (1, "mixed_bfloat16")):
    keras.mixed_precision.set_global_policy(policy)
    sides = {"stem_filters": stem, "stage_filters": (8, 4), "stage_blocks": (1, 1)}
    network = models.build(models.ModelSpec(name="resnet_like", **sides), (128, 128))
    network.compile("sgd", "mse")
    network.fit(images, images, batch_size=8, epochs=5, verbose=0)
"""


def test_a_narrow_network_does_not_kill_its_process():
    """In a process of its own: oneDNN's AVX-512 kernel writes beyond its buffers."""
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("channels", "strides"), [(4, (1, 1)), (15, (1, 1)), (16, (2, 2))])
def test_the_shortcut_of_a_narrow_block_is_that_of_a_wide_one(channels, strides):
    """Each second row and column, from the first; wide blocks keep the graph of their exports."""
    block = blocks.ResidualBlock(6, 2, channels)
    inputs = np.random.default_rng(0).random((2, 8, 12, channels), np.float32)
    seen = []
    block.shortcut_normalization = lambda values, training: seen.append(values) or values
    block(inputs)
    (kernel,) = block.shortcut_convolution.get_weights()
    np.testing.assert_allclose(seen[0], inputs[:, ::2, ::2] @ kernel[0, 0], rtol=1e-5, atol=1e-6)
    assert block.shortcut_convolution.strides == strides


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """A file as Keras has it; values neither vanish nor grow from layer to layer."""
    path = tmp_path_factory.mktemp("weights") / "notop.h5"
    write_resnet50_weights(path)
    return path


def write_resnet50_weights(path):
    random = np.random.default_rng(0)
    model = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    model.set_weights(
        [
            random.normal(0, np.prod(values.shape[:3]) ** -0.5, values.shape)
            if values.ndim == 4
            else random.normal(1, 0.02, values.shape)
            for values in model.get_weights()
        ]
    )
    model.save_weights(path)


@pytest.mark.parametrize(("name", "arrays"), [("resnet50", 318), ("resnet50_add13", 258)])
def test_every_weight_of_a_file_arrives(weights_file, name, arrays):
    network = built(name, (32, 32), weights="a file")
    pretrained.start_with(network.encoder, pretrained.read_resnet50(str(weights_file)))
    arrived = {variable.name: variable.numpy() for variable in network.encoder.variables}
    assert len(arrived) == arrays
    with h5py.File(weights_file) as file:
        for name, values in arrived.items():
            layer = name.split("/")[0]
            np.testing.assert_array_equal(values, file[layer][name][()], err_msg=name)


def test_an_encoder_gives_what_that_of_keras_gives(weights_file):
    """With the same weights, the slice in all three channels, and as Keras has it to the layer."""
    network = built("resnet50_add13", (32, 32), weights="a file")
    pretrained.start_with(network.encoder, pretrained.read_resnet50(str(weights_file)))
    whole = keras.applications.ResNet50(
        include_top=False, weights=str(weights_file), input_shape=(32, 32, 3)
    )
    theirs = keras.Model(whole.input, whole.get_layer("conv4_block6_add").output)
    slices = np.random.default_rng(1).random((2, 32, 32, 1), np.float32)
    seen = []
    network.decoder = lambda values, training: seen.append(values)
    network(slices, training=False)
    expected = theirs(np.repeat(slices, 3, axis=-1), training=False).numpy()
    assert np.isfinite(expected).all() and expected.std() > 0.1
    np.testing.assert_allclose(seen[0], expected, atol=1e-4 * np.abs(expected).max())


def test_weights_that_are_not_there_or_not_right_are_told_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nowhere\.h5: give none, imagenet, or an existing file"):
        pretrained.read_resnet50("nowhere.h5")
    text = tmp_path / "text.h5"
    text.write_text("no weights")
    with pytest.raises(UserError, match=r"text\.h5: holds no weights of ResNet50"):
        pretrained.read_resnet50(str(text))
    other = tmp_path / "other.h5"
    keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]).save_weights(other)
    with pytest.raises(UserError, match=r"other\.h5: holds no weights of ResNet50"):
        pretrained.read_resnet50(str(other))
    # A proxy where nothing listens, and an empty cache: no network.
    for name in ("KERAS_HOME", "no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="--weights=imagenet: cannot be downloaded"):
        pretrained.read_resnet50("imagenet")


def test_an_rgb_network_learns_from_three_channels_and_is_scored_on_their_mean():
    class Tinted(keras.layers.Layer):
        """Three channels around the slice: their mean is off by 0.1."""

        def call(self, inputs, training=None):
            return tf.concat([inputs - 0.2, inputs, inputs + 0.5], axis=-1)

    image = np.random.default_rng(0).integers(60, 100, (4, 16, 16, 1)).astype(np.uint8)
    network = keras.Sequential([Tinted()])
    model = autoencoder.Autoencoder(network, losses.mse, batch_size=4, seed=0, augment=None)
    model.compile()
    batch = tf.data.Dataset.from_tensors({"image": image, "index": np.arange(4)})
    scores = model.evaluate(batch, verbose=0, return_dict=True)
    assert scores["loss"] == pytest.approx((0.04 + 0.25) / 3, rel=1e-4)
    assert scores["psnr"] == pytest.approx(20, rel=1e-4)


TWO_REPLICAS = """
import numpy as np
import tensorflow as tf
from tensorflow import keras
from trainer.models import networks

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
images = np.random.default_rng(0).random((8, 32, 32, 1), np.float32)
images[:4] *= 0.3
seen = []
for replicas in (1, 2):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = networks.ResNet50Autoencoder(
            until="conv2_block2_out", upsampling_filters=(8, 4), rgb=False
        )
        network(images[:1])
    rows = 8 // replicas
    mine = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(images[context.replica_id_in_sync_group * rows :][:rows])
    )
    step = tf.function(lambda images: network(images, training=True))
    parts = strategy.experimental_local_results(strategy.run(step, args=(mine,)))
    seen.append((np.concatenate([part.numpy() for part in parts]), network.get_weights()))
(one, one_weights), (two, two_weights) = seen
np.testing.assert_allclose(two, one, atol=1e-4)
for a, b in zip(one_weights, two_weights, strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.lanes
@pytest.mark.slow
def test_resnet50_on_two_replicas_is_what_it_is_on_one():
    """Keras's own encoder would normalize each replica's rows by themselves."""
    done = subprocess.run([sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
