import csv
import json
import math
import pathlib
import shutil

import numpy as np
import plain_tensorflow
import pytest
import tensorflow as tf
import tiny_dataset
from tensorflow import keras

from ixi_tfds import config as configs
from ixi_tfds.images.scaling import quantize, scale_to_unit
from ixi_tfds.system.errors import UserError
from trainer import augmentation, autoencoder, callbacks, data, losses, models, workdir
from trainer import run as training
from trainer.__main__ import run
from trainer.config import TrainConfig

LIKE = ["--model=resnet_like"]
SMALL = [*LIKE, "--stem_filters=16", "--stage_filters=16", "--stage_blocks=1"]
DEEP = [*LIKE, "--stage_filters=8,8,8,8,8", "--stage_blocks=1,1,1,1,1"]
FLAGS = ["--dataset=ixi_t1/tiny", "--batch_size=4", "--learning_rate=0.01"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(root)
    volume = configs.SliceConfig("tiny_volume", size=(32, 32), window=(0, 4), scaling="volume")
    tiny_dataset.write_tiny_dataset(root, volume)
    odd = configs.SliceConfig("odd", size=(24, 32), window=(0, 4))
    tiny_dataset.write_tiny_dataset(root, odd, shards=1)
    return root


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert run([f"--data_dir={data_dir}", f"--workdir={workdir}", "--epochs=3", *FLAGS]) == 0
    return workdir


@pytest.mark.parametrize(
    ("value", "flags"), [("nan", []), ("inf", ["--cache"]), ("-inf", ["--augment_validation"])]
)
def test_a_loss_that_is_no_number_names_step_and_slices(
    value, flags, data_dir, tmp_path, monkeypatch, capsys
):
    """Row 33 of all epochs, of 24 slices in batches of 4, is in the third step of the second."""
    here = {"add": 0.0}

    def step(self, data, works=autoencoder.Autoencoder.train_step):
        struck = tf.reduce_any(data["index"] == 33)
        here["add"] = tf.where(struck, float(value), 0.0)
        return works(self, data)

    def losses_of(self, clean, reconstruction, works=autoencoder.Autoencoder.losses_of):
        return works(self, clean, reconstruction) + here.pop("add", 0.0)

    monkeypatch.setattr(autoencoder.Autoencoder, "train_step", step)
    monkeypatch.setattr(autoencoder.Autoencoder, "losses_of", losses_of)
    kept = []

    def write_state(folder, run_state, works=workdir.write_state):
        works(folder, run_state)
        kept.append(files(folder / "checkpoints"))

    monkeypatch.setattr(callbacks, "write_state", write_state)
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path}", "--epochs=3", *FLAGS, *flags]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    where, _, listed = error.partition(" on slices ")
    assert where == f"error: epoch 2, step 3: the loss is {value}"
    assert listed.endswith(
        f"; {tmp_path} keeps the weights after epoch 1; take a lower --learning_rate and another "
        "--workdir\n"
    )
    split = data.find_shards(data_dir / "ixi_t1/tiny/1.0.0", "train")
    cache = "--cache" in flags
    order = data.train_batches(split, batch_size=4, seed=0, epochs=range(2), cache=cache)
    images = np.concatenate([batch["image"] for batch in order])[32:36]
    known = {
        example["image"].tobytes(): f"{example['subject']}/{example['slice_index']:03d}"
        for number in range(1, 7)
        for example in tiny_dataset.slice_examples(f"IXI{900 + number}")
    }
    assert listed.partition(";")[0].split(", ") == [known[image.tobytes()] for image in images]
    assert workdir.read_state(tmp_path, 0.0).epochs_done == 1
    assert kept == [files(tmp_path / "checkpoints")]
    assert kept[0].keys() == {"epoch-00001.index", "epoch-00001.data-00000-of-00001"}
    assert not (tmp_path / "export").exists()


def history(workdir):
    with (workdir / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_history_logs_and_a_model(trained, data_dir):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0])[1:] == [
        "learning_rate",
        "loss",
        "psnr",
        "val_loss",
        "val_psnr",
        "val_ssim",
    ]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert list((trained / "tensorboard").glob("events.*"))
    card = json.loads((trained / "export/small_resnet/1/assets.extra/model_card.json").read_text())
    manifest = json.loads((data_dir / "ixi_t1/tiny/1.0.0/manifest.json").read_text())
    assert card["datasets"]["ixi_t1/tiny"]["fingerprint"] == manifest["fingerprint"]
    assert card["best"]["val_loss"] == min(float(row["val_loss"]) for row in rows)
    assert card["flags"]["loss"] == "mse"


def test_stopping_and_going_on_changes_nothing(trained, data_dir, tmp_path, capsys):
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path}", *FLAGS]
    assert run([*command, "--epochs=1"]) == 0
    # What a kill in the next epoch can leave behind counts for nothing.
    (tmp_path / "checkpoints/epoch-00002_temp").mkdir()
    (tmp_path / "checkpoints/epoch-00002.index").write_text("half written")
    assert run([*command, "--epochs=3"]) == 0
    out = capsys.readouterr().out
    assert "resuming after epoch 1 of 3" in out
    assert "best: epoch" in out.splitlines()[-1] and "python -m evaluator" in out.splitlines()[-1]
    for name in ("history.csv", "state.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    exported, other = (files(folder / "export/small_resnet/1") for folder in (tmp_path, trained))
    assert exported.keys() == other.keys()
    assert [name for name in exported if exported[name] != other[name]] == []
    done, whole = (checkpoints(folder) for folder in (tmp_path, trained))
    assert done.keys() == whole.keys() and any("optimizer" in name for name in done)
    for name, value in done.items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    # Once more: nothing is left to do but to export.
    assert run([*command, "--epochs=3"]) == 0
    assert checkpoints(tmp_path).keys() == done.keys()


def test_epochs_of_a_number_of_steps_go_on_as_others(data_dir, tmp_path):
    """Epochs of 3 steps of the 5 that are once through the data, so they end within a pass."""
    steps = [f"--data_dir={data_dir}", *FLAGS, "--steps_per_epoch=3"]
    for epochs in (1, 4):
        assert run([*steps, f"--workdir={tmp_path / 'goes_on'}", f"--epochs={epochs}"]) == 0
    assert run([*steps, f"--workdir={tmp_path / 'whole'}", "--epochs=4"]) == 0
    assert len(history(tmp_path / "whole")) == 4
    assert history(tmp_path / "goes_on") == history(tmp_path / "whole")
    (taken,) = (
        value
        for name, value in checkpoints(tmp_path / "whole").items()
        if name.startswith("epoch-00004/") and "/_iterations/" in name
    )
    assert taken == 12


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def checkpoints(workdir):
    """Every variable of every checkpoint, the bytes of the bookkeeping aside."""
    values = {}
    for path in (workdir / "checkpoints").glob("*.index"):
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        for name in reader.get_variable_to_shape_map():
            if "OBJECT_GRAPH" not in name:
                values[f"{path.stem}/{name}"] = reader.get_tensor(name)
    return values


AUGMENTED, CLEAN = [0.5, 0.3, 0.4, 0.35], [0.4, 0.3, 0.2, 0.1]
"""Losses on validation slices, corrupted and clean: by the one the second epoch is the best of
four, by the other the last."""


@pytest.fixture(scope="module")
def best_in_between(data_dir, tmp_path_factory):
    """A run whose best epoch is not its last: its folder, its own losses, its rates."""
    workdir = tmp_path_factory.mktemp("between")
    found, rates = [], []

    def on_epoch_end(self, epoch, logs=None, works=callbacks.EpochEnd.on_epoch_end):
        found.append(dict(logs))
        rates.append(float(self.model.optimizer.learning_rate.numpy()))
        works(
            self,
            epoch,
            {**logs, "val_loss": CLEAN[epoch], "val_loss_augmented": AUGMENTED[epoch]},
        )

    command = [f"--data_dir={data_dir}", f"--workdir={workdir}", *FLAGS, *SMALL, "--epochs=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.EpochEnd, "on_epoch_end", on_epoch_end)
        assert run([*command, "--batch_size=5", "--augment_validation"]) == 0
    return workdir, found, rates


def weights(prefix, within):
    """The bytes of the variables of a checkpoint whose names begin so."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(within)]
    return sorted(reader.get_tensor(name).tobytes() for name in names)


def test_the_best_weights_are_exported_not_the_last(best_in_between):
    workdir, _, _ = best_in_between
    model = workdir / "export/resnet_like/1"
    exported = weights(model / "variables/variables", "weights/")
    best, last = (
        weights(workdir / f"checkpoints/epoch-{epoch:05d}", "network/") for epoch in (2, 4)
    )
    assert len(exported) > 20 and exported == best
    assert len(set(exported) - set(last)) > 20
    kept = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
    assert kept == {"epoch-00002", "epoch-00004"}
    # The card tells of these weights, too.
    card = json.loads((model / "assets.extra/model_card.json").read_text())
    row = history(workdir)[1]
    assert card["best"] == {name: float(value) for name, value in row.items()}
    assert card["best"]["epoch"] == 2 and card["best"]["val_loss_augmented"] == 0.3


def test_the_optimizer_itself_gets_the_scheduled_rate(best_in_between):
    workdir, _, rates = best_in_between
    assert rates == pytest.approx([0.01] * 4)
    for epoch, rate in ((2, 0.01), (4, 0.01 * math.sqrt(0.1))):
        # The rate of the epoch after it: the fourth was the second without a better loss.
        reader = tf.train.load_checkpoint(str(workdir / f"checkpoints/epoch-{epoch:05d}"))
        saved = reader.get_tensor("optimizer/_learning_rate/.ATTRIBUTES/VARIABLE_VALUE")
        assert saved == pytest.approx(rate, rel=1e-6)
        # Four whole batches of 5 of the 24 slices.
        assert reader.get_tensor("optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE") == 4 * epoch


def test_the_losses_of_validation_are_those_of_all_its_slices(best_in_between, data_dir):
    """Eight slices in batches of five."""
    folder, found, _ = best_in_between
    sizes = {"stem_filters": 16, "stage_filters": (16,), "stage_blocks": (1,)}
    network = models.build(models.ModelSpec(name="resnet_like", **sizes), (32, 32))
    examples = [
        example for number in (907, 908) for example in tiny_dataset.slice_examples(f"IXI{number}")
    ]
    clean = np.stack([example["image"] for example in examples]) / 255
    assert len(clean) == 8
    for epoch in (2, 4):
        path = workdir.checkpoint_path(folder, epoch)
        tf.train.Checkpoint(network=network).read(str(path)).expect_partial()
        given_back = network(np.float32(clean), training=False).numpy()
        loss = np.mean((clean - given_back) ** 2)
        each = np.mean((clean - given_back.clip(0, 1)) ** 2, axis=(1, 2, 3))
        told = found[epoch - 1]
        assert told["val_loss"] == pytest.approx(loss, rel=2e-4)
        assert told["val_psnr"] == pytest.approx(np.mean(-10 * np.log10(each)), rel=1e-3)
        assert told["val_loss_augmented"] != told["val_loss"]


def test_a_policy_of_16_bits_does_not_outlast_its_run(data_dir, tmp_path, monkeypatch, capsys):
    seen = []

    def fails(*_):
        seen.append(keras.mixed_precision.global_policy().name)
        raise UserError("no further")

    monkeypatch.setattr(training, "_agree_on_state", fails)
    for flags in ([], ["--mixed_precision"]):
        workdir = f"--workdir={tmp_path / str(len(seen))}"
        assert run([f"--data_dir={data_dir}", workdir, *FLAGS, *flags]) == 2
        assert "no further" in capsys.readouterr().err
        assert keras.mixed_precision.global_policy().name == "float32"
    assert seen[0] == "float32" and seen[1].startswith("mixed_")


def test_the_seed_decides_about_the_first_weights(data_dir, tmp_path, monkeypatch, capsys):
    begun = []

    def fit(config, model, *_, **__):
        begun.append(np.concatenate([value.ravel() for value in model.network.get_weights()]))
        raise UserError("no further")

    monkeypatch.setattr(training, "_fit", fit)
    for number, seed in enumerate((3, 3, 4)):
        workdir = f"--workdir={tmp_path / str(number)}"
        assert run([f"--data_dir={data_dir}", workdir, *FLAGS, *SMALL, f"--seed={seed}"]) == 2
    capsys.readouterr()
    np.testing.assert_array_equal(begun[0], begun[1])
    assert np.mean(begun[0] != begun[2]) > 0.5


def test_the_saved_model_runs_without_our_code(trained, tmp_path):
    slices = tiny_dataset.scanner_slices("IXI990").astype(np.float32)
    slices[0] = 7
    limits = [(float(image.min()), float(image.max())) for image in slices]
    # The dataset's own rule, from its own code.
    stored = [quantize(v, *at) for v, at in zip(slices, limits, strict=True)]
    unit = np.float32(stored)[..., None] / np.float32(255)
    outputs = plain_tensorflow.run_elsewhere(
        trained / "export/small_resnet/1", tmp_path, unit=unit, slices=slices
    )
    reconstruction = outputs["serving_reconstruction"]
    assert reconstruction.shape == (4, 32, 32, 1)
    assert reconstruction.min() >= 0 and reconstruction.max() <= 1
    low, high = np.array(limits).T[:, :, None, None]
    expected = low + reconstruction[..., 0].astype(np.float64) * (high - low)
    # The two graphs round differently, by a few units in the last place of the slices in [0, 1],
    # and a network this little trained amplifies that; a grey level is 40 times the tolerance.
    tolerance = 1e-4 * float((high - low).max())
    np.testing.assert_allclose(outputs["raw_reconstruction"], expected, atol=tolerance)
    np.testing.assert_allclose(outputs["raw_residual"], slices - expected, atol=tolerance)
    given_back = outputs["raw_reconstruction"] + outputs["raw_residual"]
    np.testing.assert_allclose(given_back, slices, atol=1e-3)
    assert (outputs["raw_reconstruction"][0] == 7).all() and not outputs["raw_residual"][0].any()
    assert all(np.isfinite(output).all() for output in outputs.values())


@pytest.mark.parametrize("limits", [None, (-3.7, 411.3)])
def test_the_model_scales_to_the_very_levels_of_the_dataset(limits):
    values = np.random.default_rng(0).normal(200, 90, (20, 32, 32)).astype(np.float32)
    values[::2] = np.round(values[::2])
    values[0] = 7
    ranges = [limits or (float(image.min()), float(image.max())) for image in values]
    stored = [quantize(v, *at) for v, at in zip(values, ranges, strict=True)]
    low, high = np.array(ranges).T[:, :, None, None]
    unit = scale_to_unit(values.astype(np.float64), low, high).numpy()
    np.testing.assert_array_equal(np.round(unit[..., 0] * 255), stored)
    np.testing.assert_array_equal(unit[..., 0], np.float32(stored) / np.float32(255))


def test_dssim_and_a_volume_scaled_dataset_give_a_model_that_takes_the_range(data_dir, tmp_path):
    workdir = tmp_path / "run"
    command = [f"--data_dir={data_dir}", f"--workdir={workdir}", "--dataset=ixi_t1/tiny_volume"]
    options = ["--loss=dssim", "--optimizer=adam", "--augment_validation", "--cache"]
    assert run([*command, *options, "--batch_size=5", "--epochs=1", "--mixed_precision"]) == 0
    assert "val_loss_augmented" in history(workdir)[0]
    slices = tiny_dataset.scanner_slices("IXI991").astype(np.float32)
    low, high = np.full(4, 50, np.float32), np.full(4, 800, np.float32)
    stored = quantize(slices, 50, 800)
    unit = np.float32(stored)[..., None] / np.float32(255)
    outputs = plain_tensorflow.run_elsewhere(
        workdir / "export/small_resnet/1", tmp_path, unit=unit, slices=slices, low=low, high=high
    )
    expected = 50 + outputs["serving_reconstruction"][..., 0].astype(np.float64) * 750
    # The two graphs round differently, by a few units in the last place of the slices in [0, 1],
    # and a network this little trained amplifies that; a grey level is 40 times the tolerance.
    tolerance = 1e-4 * float((high - low).max())
    np.testing.assert_allclose(outputs["raw_reconstruction"], expected, atol=tolerance)
    np.testing.assert_allclose(outputs["raw_residual"], slices - expected, atol=tolerance)
    given_back = outputs["raw_reconstruction"] + outputs["raw_residual"]
    np.testing.assert_allclose(given_back, slices, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=resnet99"], "--model=resnet99: choose one of"),
        (["--loss=l1"], "--loss=l1: choose one of"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--learning_rate=-1"], "--learning_rate"),
        (["--epochs=many"], "epochs"),
        (["--no_such_flag"], "no_such_flag"),
        (["stray"], "stray"),
        (["--data_dir=/no/such/folder"], "/no/such/folder"),
        (["--dataset=ixi_t1/none"], "ixi_t1/none"),
        (["--dataset=ixi_t1/odd"], "24x32"),
        (["--batch_size=500"], "24 slices"),
        (["--schedule=steps"], "--schedule=steps: choose one of"),
        (["--augment_fraction=2"], "--augment_fraction=2.0: must be between 0 and 1"),
        (["--noaugment", "--augment_validation"], "--augment_validation needs"),
        (["--profile_steps=-1"], "--profile_steps=-1: must be at least 0"),
        (["--loss=mix", "--dssim_weight=1"], "--dssim_weight=1.0: must be below 1"),
        (["--dssim_weight=0.3"], "--dssim_weight goes with --loss=mix only"),
        (["--stage_filters=64"], "--stage_filters goes with --model=resnet_like only"),
        ([*LIKE, "--stage_filters=64,x"], "--stage_filters=64,x: give whole numbers"),
        ([*LIKE, "--stage_filters="], "--stage_filters=: give 1 number(s)"),
        ([*LIKE, "--stage_filters=8,0,8"], "--stage_filters=8,0,8: must be at least 1"),
        ([*LIKE, "--stage_blocks=2,1"], "--stage_blocks=2,1: give 3 number(s)"),
        ([*LIKE, "--upsampling_filters=8,8"], "--upsampling_filters=8,8: give 4 number(s)"),
        ([*LIKE, "--stem_filters=0"], "--stem_filters=0: must be at least 1"),
        ([*DEEP], "multiples of 64 for --model=resnet_like"),
        (["--weights=imagenet"], "--weights=imagenet: --model=small_resnet takes none"),
        (["--model=resnet50", "--weights=no.h5"], "--weights=no.h5: give none, imagenet, or"),
        (["--dataset=ixi_t1/tiny,ixi_t1/none"], "ixi_t1/none"),
        (["--dataset=ixi_t1/tiny,ixi_t1/tiny"], "ixi_t1/tiny is named twice"),
        (["--dataset=ixi_t1/tiny,ixi_t1/odd"], "those of ixi_t1/odd are 24x32"),
        (["--dataset=ixi_t1/tiny,ixi_t1/tiny_volume"], "tiny_volume are 32x32, scaled by volume"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
    ],
)
def test_slips_of_the_user_get_one_line(flags, message, data_dir, tmp_path, capsys):
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path / 'new'}", *FLAGS, *flags]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_workdir_belongs_to_one_run(trained, data_dir, capsys):
    command = [f"--data_dir={data_dir}", f"--workdir={trained}", *FLAGS]
    before = files(trained)
    assert run([*command, "--epochs=3", "--loss=dssim", "--seed=3"]) == 2
    error = capsys.readouterr().err
    assert f"--workdir={trained}: belongs to a run with --loss=mse, --seed=0; give" in error
    assert error.count("\n") == 1
    assert run([*command, "--epochs=2"]) == 2
    error = capsys.readouterr().err
    assert f"--workdir={trained}: its run has --epochs=3; give 3 or more" in error
    assert error.count("\n") == 1
    assert files(trained) == before


@pytest.mark.parametrize("cache", [False, True])
def test_the_order_is_a_function_of_seed_and_epoch(data_dir, cache):
    split = data.find_shards(pathlib.Path(data_dir, "ixi_t1/tiny/1.0.0"), "train")

    def slices(epochs, seed=0):
        batches = data.train_batches(split, batch_size=5, seed=seed, epochs=epochs, cache=cache)
        batches = list(batches.as_numpy_iterator())
        index = np.concatenate([batch["index"] for batch in batches])
        return [image.tobytes() for batch in batches for image in batch["image"]], index

    both, index = slices(range(2))
    assert len(both) == 2 * 20
    np.testing.assert_array_equal(index, np.arange(40))
    first, second = both[:20], both[20:]
    # The tiny slices all differ, so no slice came twice.
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    again, index = slices(range(1, 2))
    assert again == second and index[0] == 20
    assert slices(range(1), seed=1)[0] != first


def test_evaluation_takes_every_slice_once(data_dir):
    split = data.find_shards(pathlib.Path(data_dir, "ixi_t1/tiny/1.0.0"), "test")
    batches = list(data.evaluation_batches(split, batch_size=5).as_numpy_iterator())
    assert [len(batch["image"]) for batch in batches] == [5, 5, 2]
    assert batches[0]["image"].dtype == np.uint8
    assert len({image.tobytes() for batch in batches for image in batch["image"]}) == 12


def test_the_learning_rate_falls_as_keras_lets_it():
    values = [5.0, 4.0, 4.5, 4.1, 4.2, 4.3, 3.9, *[4.0] * 30]
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    rule = keras.callbacks.ReduceLROnPlateau(
        factor=np.sqrt(0.1), patience=2, cooldown=0, min_lr=0.5e-6, min_delta=0
    )
    rule.set_model(model)
    rule.on_train_begin()
    ours = workdir.RunState(learning_rate=1e-3)
    for epoch, value in enumerate(values):
        rule.on_epoch_end(epoch, {"val_loss": value})
        workdir.add_epoch(ours, {"val_loss": value}, TrainConfig(data_dir="D", workdir="W"))
        assert ours.learning_rate == pytest.approx(float(model.optimizer.learning_rate), rel=1e-5)
    assert ours.learning_rate == pytest.approx(0.5e-6)
    assert (ours.best_epoch, ours.best_loss) == (7, 3.9)


def test_the_cosine_ends_near_zero_and_a_constant_rate_stays():
    cosine, constant = workdir.RunState(learning_rate=1e-3), workdir.RunState(learning_rate=1e-3)
    for run_state, schedule in ((cosine, "cosine"), (constant, "constant")):
        config = TrainConfig(data_dir="D", workdir="W", schedule=schedule, epochs=4)
        for _ in range(4):
            workdir.add_epoch(run_state, {"val_loss": 1.0}, config)
    rates = [row["learning_rate"] for row in cosine.history]
    falling = keras.optimizers.schedules.CosineDecay(1e-3, 4)
    assert rates == pytest.approx([float(falling(epoch)) for epoch in range(4)], rel=1e-5)
    assert cosine.learning_rate == 0.5e-6
    assert {row["learning_rate"] for row in constant.history} == {1e-3}


def test_a_run_under_a_cosine_keeps_its_epochs(data_dir, tmp_path, capsys):
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path}", *FLAGS, *SMALL]
    command += ["--schedule=cosine", "--batch_size=8"]
    assert run([*command, "--epochs=2"]) == 0
    assert [row["learning_rate"] for row in history(tmp_path)] == ["0.01", "0.005"]
    assert run([*command, "--epochs=3"]) == 2
    assert "--epochs=2" in capsys.readouterr().err


def test_augmentation_leaves_the_rest_of_the_images_alone():
    images = np.random.default_rng(0).random((64, 16, 16, 1), dtype=np.float32)
    drawn = [
        augmentation.augment(
            images,
            tf.range(64, dtype=tf.int64),
            config=augmentation.AugmentationConfig(fraction=fraction, gaussian_noise=0.01),
            seed=1,
            batch_size=64,
        ).numpy()
        for fraction in (1.0, 0.25)
    ]
    whole, some = ((out != images).any(axis=(1, 2, 3)) for out in drawn)
    assert whole.all()
    assert 0.1 < some.mean() < 0.4
    # Those it touches it corrupts as it would have otherwise.
    np.testing.assert_array_equal(drawn[1][some], drawn[0][some])


def test_augmentation_happens_as_often_as_its_config_says():
    config = augmentation.AugmentationConfig()
    drawn = [
        augmentation.sample(config, seed=tf.constant([7, block], tf.int64), shape=(64, 16, 16))
        for block in range(50)
    ]
    joined = {name: np.stack([p[name] for p in drawn]) for name in drawn[0]}
    assert joined["blurred"].mean() == pytest.approx(0.5, abs=0.03)
    assert set(joined["sigma"].tolist()) == {0, 1, 2}
    cutout = joined["sizes"].max(-1) > 0
    lost = 1 - joined["keep"].mean(axis=(-2, -1))
    dropout = lost > 0
    # 0, 1 or 2 of the two, alike: each happens to half of the images, both to a third. A dropout
    # of few of these 64 blocks may drop none.
    assert cutout.mean() == pytest.approx(0.5, abs=0.03)
    assert lost.mean() == pytest.approx(0.5 * 0.025, abs=0.002)
    assert (~cutout & ~dropout).mean() > 1 / 3 - 0.03
    assert 0.15 < (cutout & dropout).mean() < 1 / 3 + 0.03
    assert joined["sizes"].shape[-1] == 2
    assert set(np.unique(joined["sizes"])) == {0, 3}


def test_a_corruption_depends_on_the_place_in_the_order_not_on_the_replica():
    images = np.random.default_rng(0).random((8, 16, 16, 1), dtype=np.float32)
    index = np.arange(16, 24, dtype=np.int64)
    keep = {"config": augmentation.AugmentationConfig(gaussian_noise=0.1, rician_noise=0.1)}
    keep |= {"seed": 3, "batch_size": 8}
    whole = augmentation.augment(images, tf.constant(index), **keep).numpy()
    halves = [
        augmentation.augment(images[rows], tf.constant(index[rows]), **keep).numpy()
        for rows in (slice(0, 4), slice(4, 8))
    ]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    later = augmentation.augment(images, tf.constant(index + 8), **keep).numpy()
    assert np.abs(later - whole).max() > 0.1


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_step_corrupts_the_input_and_keeps_the_target_clean(jit):
    """The network sees a corrupted slice, the loss the clean one, both inside the step's graph."""
    seen = []

    class Spy(keras.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(
                name="seen", shape=(8, 32, 32, 1), initializer="zeros", trainable=False
            )
            self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

        def call(self, inputs, training=None):
            self.seen.assign(inputs)
            return self.gain * inputs

    def loss(clean, reconstruction):
        seen.append(tf.executing_eagerly())
        return losses.mse(clean, reconstruction)

    image = np.random.default_rng(0).integers(50, 256, (8, 32, 32, 1)).astype(np.uint8)
    batch = {"image": image, "index": np.arange(8)}
    config = augmentation.AugmentationConfig()
    network = keras.Sequential([Spy()])
    network.build((8, 32, 32, 1))
    model = autoencoder.Autoencoder(network, loss, batch_size=8, seed=0, augment=config)
    model.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=jit)
    dataset = tf.data.Dataset.from_tensors(batch)
    fitted = model.fit(dataset, verbose=0).history["loss"][0]
    assert not any(seen)
    clean = image.astype(np.float32) / 255
    corrupted = network.layers[0].seen.numpy()
    expected = augmentation.augment(
        clean, tf.range(8, dtype=tf.int64), config=config, seed=0, batch_size=8
    ).numpy()
    np.testing.assert_allclose(corrupted, expected, atol=1e-5)
    assert np.abs(corrupted - clean).max() > 0.1
    assert fitted == pytest.approx(np.mean((corrupted - clean) ** 2), rel=1e-4)
    # Validation is clean, and its loss is that of the clean slice.
    validated = model.evaluate(dataset, verbose=0, return_dict=True)
    assert validated["loss"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(network.layers[0].seen.numpy(), clean, atol=1e-7)


def spoil_state(workdir):
    (workdir / "state.json").write_bytes(b"\x00garbage")
    return "state.json: is not the state of a run"


def foreign_state(workdir):
    (workdir / "state.json").write_text('{"epochs": 3}')
    return "state.json: is not the state of a run"


def lose_checkpoint(workdir):
    for path in (workdir / "checkpoints").iterdir():
        path.unlink()
    return "checkpoints/epoch-00003: this checkpoint is missing or damaged"


def truncate_checkpoint(workdir):
    for path in (workdir / "checkpoints").glob("*.data-*"):
        path.write_bytes(path.read_bytes()[:1000])
    return "checkpoints/epoch-00003: this checkpoint is missing or damaged"


def spoil_claim(workdir):
    (workdir / "config.json").write_text("[1]")
    return "config.json is not the config of a run"


@pytest.mark.parametrize(
    "damage", [spoil_state, foreign_state, lose_checkpoint, truncate_checkpoint, spoil_claim]
)
def test_a_damaged_workdir_gets_one_line(damage, trained, data_dir, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/export")
    words = damage(tmp_path / "run")
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path / 'run'}", "--epochs=4", *FLAGS]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/run" in error and words in error and error.count("\n") == 1
    assert not (tmp_path / "run/export").exists()


@pytest.mark.parametrize("verify", ["full", "quick"])
def test_a_damaged_shard_stops_the_run_before_or_at_it(verify, data_dir, tmp_path, capsys):
    """Before the first step; with --verify=quick when it is read."""
    data = shutil.copytree(data_dir, tmp_path / "data")
    path = data / "ixi_t1/tiny/1.0.0/ixi_t1-train.tfrecord-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    command = [f"--data_dir={data}", f"--workdir={tmp_path / 'run'}", "--epochs=1", *FLAGS]
    assert run([*command, f"--verify={verify}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "beam_preprocess verify" in captured.err
    if verify == "full":
        assert f"{path}: is damaged: record" in captured.err
        assert "slices to train on" not in captured.out and not (tmp_path / "run").exists()
    else:
        assert "a shard is damaged (corrupted record" in captured.err
    for name in ("state.json", "checkpoints", "export"):
        assert not (tmp_path / "run" / name).exists()
