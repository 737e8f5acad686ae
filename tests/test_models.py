import numpy as np
import pytest
from tensorflow import keras

from trainer import config, losses, models


@pytest.mark.parametrize(
    ("name", "parameters"), [("small_resnet", 2_263_232), ("big_resnet", 6_104_256)]
)
def test_parameters_are_those_of_the_thesis(name, parameters):
    assert models.build(name, (256, 256)).count_params() == parameters


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_any_multiple_of_sixteen_keeps_its_size(size):
    network = models.build("small_resnet", size)
    assert network(np.zeros((2, *size, 1), np.float32)).shape == (2, *size, 1)


def test_bottleneck_is_a_sixteenth_of_the_side():
    network = models.build("big_resnet", (64, 64))
    values = network.stem(np.zeros((1, 64, 64, 1), np.float32))
    for block in network.blocks:
        values = block(values)
    assert values.shape == (1, 4, 4, 256)


def test_reconstructions_are_float32_in_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = models.build("small_resnet", (16, 16))
        assert network.stem.compute_dtype == "bfloat16"
        assert network(np.zeros((1, 16, 16, 1), np.float32)).dtype == np.float32
        assert {variable.dtype.name for variable in network.variables} == {"float32"}
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_flags_offer_what_there_is():
    assert set(config.MODELS) == set(models.MODELS)
    assert set(config.LOSSES) == set(losses.LOSSES)
