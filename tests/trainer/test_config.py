"""Flags become one config, all of it reaches the model, and a working folder keeps its own."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from ixi_tfds.system import commands, flags
from ixi_tfds.system.errors import UserError
from trainer import augmentation, losses, run, train, workdir
from trainer.config import TrainConfig

GIVEN = {
    "data_dir": "D",
    "dataset": "ixi_t1/one,ixi_t1/two",
    "workdir": "W",
    "task": "reconstruct",
    "model": "resnet_like",
    "weights": "none",
    "stem_filters": 4,
    "stage_filters": (8, 16),
    "stage_blocks": (2, 1),
    "upsampling_filters": (12, 6, 5),
    "loss": "mix",
    "dssim_weight": 0.25,
    "optimizer": "adam",
    "learning_rate": 0.02,
    "schedule": "cosine",
    "warmup_steps": 11,
    "clip_norm": 0.5,
    "epochs": 7,
    "steps_per_epoch": 13,
    "batch_size": 12,
    "seed": 5,
    "augment": True,
    "augment_fraction": 0.75,
    "gaussian_noise": 0.125,
    "rician_noise": 0.0625,
    "augment_validation": True,
    "mixed_precision": True,
    "jit_compile": "off",
    "cache": True,
    "replicas": 3,
    "export_half": True,
    "profile_steps": 2,
    "verify": "quick",
}
DEFAULT = {
    "dataset": "ixi_t1/thesis",
    "task": "reconstruct",
    "model": "small_resnet",
    "weights": "none",
    "stem_filters": 32,
    "stage_filters": (64, 128, 256),
    "stage_blocks": (2, 1, 1),
    "upsampling_filters": (),
    "loss": "mse",
    "dssim_weight": 0.5,
    "optimizer": "rmsprop",
    "learning_rate": 1e-3,
    "schedule": "plateau",
    "warmup_steps": 0,
    "clip_norm": 0.0,
    "epochs": 100,
    "steps_per_epoch": 0,
    "batch_size": 32,
    "seed": 0,
    "augment": True,
    "augment_fraction": 1.0,
    "gaussian_noise": 0.0,
    "rician_noise": 0.0,
    "augment_validation": False,
    "mixed_precision": False,
    "jit_compile": "auto",
    "cache": False,
    "replicas": 0,
    "export_half": False,
    "profile_steps": 0,
    "verify": "full",
}


def parsed(*argv):
    return commands.parse(train.COMMAND, ["--data_dir=D", "--workdir=W", *argv])[0]


def text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_flag_has_its_field():
    config = parsed(*(f"--{k}={text(v)}" for k, v in GIVEN.items()))
    assert flags.as_flags(config) == GIVEN and list(flags.as_flags(config)) == list(GIVEN)
    # Each of them is another value than the one without the flag.
    assert flags.as_flags(parsed()) == {"data_dir": "D", "workdir": "W", **DEFAULT}
    assert parsed() == TrainConfig(data_dir="D", workdir="W")
    same = {name for name in DEFAULT if GIVEN[name] == DEFAULT[name]}
    assert same == {"task", "weights", "augment"}
    assert not parsed("--noaugment").augment
    assert parsed("--model=resnet50", "--weights=F.h5").model.weights == "F.h5"


def a_config(**changes):
    return flags.from_flags(TrainConfig, {**GIVEN, **changes})


def test_what_follows_from_the_flags():
    both = a_config()
    assert both.datasets == ("ixi_t1/one", "ixi_t1/two")
    assert both.monitored == "val_loss_augmented"
    assert a_config(augment_validation=False).monitored == "val_loss"
    assert both.corruptions == both.augmentation
    # Tasks of brains have damage of their own.
    assert a_config(augment_validation=False, task="repair").corruptions is None
    assert not both.model.rgb and a_config(model="resnet50", weights="imagenet").model.rgb


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"epochs": 1}, {"epochs": 0}),
        ({"batch_size": 1}, {"batch_size": 0}),
        ({"seed": 0}, {"seed": -1}),
        ({"seed": 2**31 - 1}, {"seed": 2**31}),
        ({"replicas": 0}, {"replicas": -1}),
        ({"profile_steps": 0}, {"profile_steps": -1}),
        ({"learning_rate": 1e-9}, {"learning_rate": 0.0}),
        ({"learning_rate": 1e9}, {"learning_rate": float("inf")}),
        ({"learning_rate": 1e-3}, {"learning_rate": float("nan")}),
        ({"dssim_weight": 0.001}, {"dssim_weight": 0.0}),
        ({"dssim_weight": 0.999}, {"dssim_weight": 1.0}),
        ({"augment_fraction": 0.0}, {"augment_fraction": -0.001}),
        ({"augment_fraction": 1.0}, {"augment_fraction": 1.001}),
        ({"gaussian_noise": 1.0}, {"gaussian_noise": 1.001}),
        ({"rician_noise": 0.0}, {"rician_noise": -0.001}),
        ({"warmup_steps": 0}, {"warmup_steps": -1}),
        ({"steps_per_epoch": 0}, {"steps_per_epoch": -1}),
        ({"clip_norm": 0.0}, {"clip_norm": -0.001}),
        ({"stage_filters": (1, 1)}, {"stage_filters": (8, 0)}),
        ({"upsampling_filters": ()}, {"upsampling_filters": (8, 8)}),
        ({"augment_validation": False, "augment": False}, {"augment": False}),
        ({"augment_validation": False, "task": "repair"}, {"task": "repair"}),
    ],
)
def test_limits_are_where_the_message_says(good, bad):
    a_config(**good)
    (name,) = bad
    with pytest.raises(UserError, match="--"):
        a_config(**bad)
    assert name in GIVEN


OTHERWISE = {
    **{name: value for name, value in DEFAULT.items() if GIVEN[name] != value},
    "data_dir": "E",
    "task": "repair",
    "weights": "F.h5",
    "augment": False,
    # Three stages go with three numbers of blocks.
    "stage_filters": (8, 8),
    "stage_blocks": (1, 1),
    "epochs": 9,
}
FREE = {"data_dir", "epochs", "replicas", "jit_compile", "export_half", "profile_steps", "verify"}


def claim(folder, fingerprint="abc", **changes):
    workdir.open_workdir(a_config(workdir=str(folder), **changes), fingerprint)


@pytest.mark.parametrize("name", sorted(GIVEN.keys() - {"workdir"}))
def test_a_run_goes_on_with_nothing_changed_but_where_and_how(name, tmp_path):
    keep = {"schedule": "constant"}
    if name == "weights":
        keep["model"] = "resnet50"
    if name in ("augment", "task"):
        keep["augment_validation"] = False
    claim(tmp_path, **keep)
    before = (tmp_path / "config.json").read_bytes()
    claim(tmp_path, **keep)
    assert (tmp_path / "config.json").read_bytes() == before
    changed = {**keep, name: OTHERWISE[name]}
    if name in FREE:
        claim(tmp_path, **changed)
        assert json.loads((tmp_path / "config.json").read_text())[name] == OTHERWISE[name]
        return
    with pytest.raises(UserError) as caught:
        claim(tmp_path, **changed)
    there = json.loads(before)[name]
    assert str(caught.value) == (
        f"--workdir={tmp_path}: belongs to a run with --{name}={there}; give the same flags to "
        "resume it, or another --workdir"
    )
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_flag_that_an_older_run_did_not_have_has_its_default_there(tmp_path):
    claim(tmp_path, steps_per_epoch=0)
    path = tmp_path / "config.json"
    older = json.loads(path.read_text())
    del older["steps_per_epoch"]
    path.write_text(json.dumps(older))
    with pytest.raises(UserError, match="a run with --steps_per_epoch=0; give"):
        claim(tmp_path, steps_per_epoch=838)
    claim(tmp_path, steps_per_epoch=0)


def test_a_run_goes_on_with_the_same_slices_and_no_fewer_epochs(tmp_path):
    claim(tmp_path, schedule="plateau", epochs=7)
    with pytest.raises(UserError, match=r"a run with --dataset \(other contents\); give"):
        claim(tmp_path, "abd", schedule="plateau")
    claim(tmp_path, schedule="plateau", epochs=8)
    with pytest.raises(UserError, match="its run has --epochs=8; give 8 or more"):
        claim(tmp_path, schedule="plateau", epochs=7)
    # The folder itself may have moved.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    claim(moved, schedule="plateau", epochs=8)


def test_under_a_cosine_the_number_of_epochs_stays(tmp_path):
    claim(tmp_path, epochs=7)
    claim(tmp_path, epochs=7)
    with pytest.raises(UserError, match="belongs to a run with --epochs=7"):
        claim(tmp_path, epochs=8)


def test_only_who_writes_leaves_its_flags(tmp_path):
    workdir.open_workdir(a_config(workdir=str(tmp_path / "new")), "abc", write=False)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.fixture(scope="module")
def built():
    return run.build(a_config(seed=5), (32, 48), None)


def test_the_flags_reach_the_model(built):
    assert (built.batch_size, built.seed, built.augments_validation) == (12, 5, True)
    assert built.augment == augmentation.AugmentationConfig(
        fraction=0.75, gaussian_noise=0.125, rician_noise=0.0625
    )
    assert type(built.optimizer).__name__ == "Adam"
    assert float(built.optimizer.learning_rate) == pytest.approx(0.02)
    assert built.network(np.zeros((2, 32, 48, 1), np.float32)).shape == (2, 32, 48, 1)
    assert not built.jit_compile
    clean, other = np.random.default_rng(0).random((2, 3, 9, 9, 1), dtype=np.float32)
    np.testing.assert_allclose(
        built.losses_of(clean, other),
        0.75 * np.mean((clean - other) ** 2, axis=(1, 2, 3))
        + 0.25 * losses.dssim(clean, other).numpy(),
        rtol=1e-5,
    )
    filters = [side for v in built.network.variables for side in v.shape[-2:]]
    assert {4, 8, 16, 12, 6, 5} <= set(filters)


def test_flags_left_out_leave_their_parts_out():
    plain = a_config(
        augment=False, augment_validation=False, optimizer="rmsprop", loss="dssim", jit_compile="on"
    )
    model = run.build(plain, (32, 32), None)
    assert model.augment is None and not model.augments_validation
    assert type(model.optimizer).__name__ == "RMSprop"
    assert model.loss_of is losses.dssim and model.jit_compile


@pytest.mark.parametrize(
    ("asked", "capabilities", "expected"),
    [
        (False, [(7, 0)], "float32"),
        (True, [], "mixed_bfloat16"),
        (True, [(8, 0)], "mixed_bfloat16"),
        (True, [(9, 0), (8, 6)], "mixed_bfloat16"),
        (True, [(7, 5)], "mixed_float16"),
        (True, [(9, 0), (7, 0)], "mixed_float16"),
        (True, [None], "mixed_float16"),
    ],
)
def test_sixteen_bits_are_those_that_all_gpus_can(asked, capabilities, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(capabilities))
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": gpu} if gpu else {},
    )
    assert run._policy(a_config(mixed_precision=asked)) == expected


def test_float16_alone_scales_its_loss():
    policy = keras.mixed_precision.global_policy()
    kinds = {}
    try:
        for name in ("float32", "mixed_bfloat16", "mixed_float16"):
            keras.mixed_precision.set_global_policy(name)
            optimizer = run._optimizer(a_config())
            kinds[name] = hasattr(optimizer, "get_scaled_loss")
            assert float(optimizer.learning_rate) == pytest.approx(0.02)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    assert kinds == {"float32": False, "mixed_bfloat16": False, "mixed_float16": True}


@pytest.mark.parametrize(
    ("asked", "gpus", "replicas", "compiles"),
    [
        ("auto", 0, 1, False),
        ("auto", 1, 1, True),
        ("auto", 2, 1, True),
        ("auto", 2, 2, False),
        ("auto", 0, 2, False),
        ("on", 0, 1, True),
        ("on", 2, 2, True),
        ("off", 1, 1, False),
    ],
)
def test_xla_compiles_by_itself_for_one_gpu_only(asked, gpus, replicas, compiles, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"] * gpus)
    assert run._compiles(a_config(jit_compile=asked), replicas) is compiles
