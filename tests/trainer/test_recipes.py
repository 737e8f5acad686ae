import collections
import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_dataset
import untrained
from tensorflow import keras

import ixi_tfds
from evaluator.__main__ import run as evaluate
from ixi_tfds.system import flags
from ixi_tfds.thesis_results import published
from trainer import models, thesis
from trainer import run as training
from trainer.__main__ import run
from trainer.models import pretrained
from trainer.models.networks import to_grey

RECIPES = {path.stem: path for path in thesis.RECIPES.glob("*.flags")}

# Model, weights, loss, optimizer and batch of each run of the thesis.
RUNS = {
    "small_mse": ("small_resnet", "none", "mse", "rmsprop", 32),
    "small_dssim": ("small_resnet", "none", "dssim", "rmsprop", 32),
    "big_mse": ("big_resnet", "none", "mse", "rmsprop", 32),
    "big_dssim": ("big_resnet", "none", "dssim", "rmsprop", 24),
    "resnet50_mse": ("resnet50", "none", "mse", "adam", 8),
    "resnet50_dssim": ("resnet50", "none", "dssim", "adam", 8),
    "resnet50_imagenet_mse": ("resnet50", "imagenet", "mse", "adam", 8),
    "resnet50_imagenet_dssim": ("resnet50", "imagenet", "dssim", "adam", 8),
    "add13_mse": ("resnet50_add13", "none", "mse", "rmsprop", 16),
    "add13_dssim": ("resnet50_add13", "none", "dssim", "rmsprop", 16),
    "act40_dssim": ("resnet50_act40", "none", "dssim", "rmsprop", 16),
    "imagenet_add13_dssim": ("resnet50_add13", "imagenet", "dssim", "rmsprop", 16),
}


class AskedError(Exception):
    """Carries the config instead of training by it."""


def config_of(monkeypatch, *given):
    """The config that the command line makes of flags."""

    def train(config):
        raise AskedError(config)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", train)
        with pytest.raises(AskedError) as asked:
            run(["--data_dir=d", "--workdir=w", *given])
    return asked.value.args[0]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "notop.h5"
    shape = (None, None, 3)
    keras.applications.ResNet50(include_top=False, weights=None, input_shape=shape).save_weights(
        path
    )
    return path


def test_the_recipes_are_the_thesis_twelve_runs(monkeypatch):
    assert RECIPES.keys() == RUNS.keys() == set(published().index)
    for name, path in RECIPES.items():
        config = config_of(monkeypatch, f"--flagfile={path}")
        run_of = (
            config.model.name,
            config.model.weights,
            config.loss,
            config.optimizer,
            config.batch_size,
        )
        assert run_of == RUNS[name]
        assert (config.epochs, config.learning_rate) == (100, 1e-3)
        assert config.augment and config.augment_validation
        # All else is as the trainer has it by itself.
        plain = flags.as_flags(config_of(monkeypatch, "--augment_validation"))
        stated = ("model", "weights", "loss", "optimizer", "batch_size", "epochs", "learning_rate")
        given = flags.as_flags(config)
        assert given == plain | {flag: given[flag] for flag in stated}


def test_recipes_of_models_of_brains_lie_apart_and_hold_flags_of_today(monkeypatch, tmp_path):
    folder = thesis.RECIPES / "lesions"
    assert {path.stem for path in folder.iterdir()} == {"denoise", "repair"}
    for path in folder.iterdir():
        config = config_of(monkeypatch, f"--flagfile={path}")
        assert config.task == path.stem and config.model.name == "unet"
        assert config.corruptions is None
        command = f"python -m trainer --flagfile=trainer/recipes/lesions/{path.name}"
        assert command in path.read_text()
    # The thesis's command does not know them.
    flags = [f"--data_dir={tmp_path}", f"--workdir={tmp_path}"]
    for name in ("repair", "lesions/repair"):
        assert thesis.run([*flags, f"--recipes={name}"]) == 2


OWN = {"shallow_mse": (337_088, "mse"), "searched_mix": (338_592, "mix")}


def test_recipes_of_our_own_lie_apart():
    assert {path.stem for path in (thesis.RECIPES / "own").iterdir()} == OWN.keys()


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_of_our_own_has_fewer_parameters_than_big(monkeypatch, tmp_path, name):
    path = thesis.RECIPES / f"own/{name}.flags"
    config = config_of(monkeypatch, f"--flagfile={path}")
    network = models.build(config.model, (64, 64))
    assert (network.count_params(), config.loss) == OWN[name]
    assert network.count_params() < 6_104_256
    # The narrowest layer has a quarter of height and width, that of Big a sixteenth.
    assert models.stride(config.model) == 4
    assert (config.task, config.steps_per_epoch, config.epochs) == ("reconstruct", 838, 18)
    assert f"python -m trainer --flagfile=trainer/recipes/own/{path.name}" in path.read_text()
    where = [f"--data_dir={tmp_path}", f"--workdir={tmp_path}"]
    assert thesis.run([*where, f"--recipes={name}"]) == 2


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What the thesis's command runs, noted instead: runs leave a result at once.

    Those in `failing` fail.
    """
    commands = types.SimpleNamespace(seen=[], failing=set())

    def pretend(module, arguments):
        commands.seen.append((module, list(arguments)))
        if module == "trainer":
            (recipe,) = (a for a in arguments if a.startswith("--flagfile="))
            folder = tmp_path / pathlib.Path(recipe).stem
        else:
            (where,) = (a for a in arguments if a.startswith("--output_dir="))
            folder = pathlib.Path(where.partition("=")[2]).parent
        number = list(RUNS).index(folder.name)
        if (module, folder.name) in commands.failing:
            return False
        if module == "trainer":
            augmented = number != 1
            card = {
                "flags": {"augment_validation": augmented},
                "best": {
                    "epoch": number + 1,
                    "val_loss": number / 64,
                    "val_loss_augmented": number,
                },
            }
            path = folder / "export" / RUNS[folder.name][0] / "1/assets.extra/model_card.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(card))
        else:
            means = {"psnr": {"mean": 30 + number, "std": 9}, "ssim": {"mean": 1 / (2 + number)}}
            (folder / "evaluation").mkdir()
            (folder / "evaluation/summary.json").write_text(json.dumps({"models": [means]}))
        return True

    monkeypatch.setattr(thesis, "_run", pretend)
    return commands


def test_the_thesis_trains_all_twelve_in_order_and_scores_them_on_the_test_split(
    tmp_path, commands
):
    data = ["--data_dir=d", "--dataset=ixi_t1/x"]
    own = ["--epochs=3", "--noaugment_validation", "--stage_filters=8,8"]
    assert thesis.run([*data, f"--workdir={tmp_path}", "--imagenet_weights=w.h5", *own]) == 0
    trained, scored = commands.seen[:12], commands.seen[12:]
    for name, (module, arguments) in zip(RUNS, trained, strict=True):
        assert module == "trainer"
        recipe, *then = arguments
        assert recipe == f"--flagfile={RECIPES[name]}"
        # Later flags win, so what the user asks for comes after the recipe.
        weights = ["--weights=w.h5"] if "imagenet" in name else []
        assert then == [*data, f"--workdir={tmp_path / name}", *weights, *own]
    for name, (module, arguments) in zip(RUNS, scored, strict=True):
        assert module == "evaluator"
        model = f"--saved_model={tmp_path / name / 'export' / RUNS[name][0]}"
        output = f"--output_dir={tmp_path / name / 'evaluation'}"
        assert sorted(arguments) == sorted([model, output, *data, "--split=test"])


def test_epochs_of_the_thesis_have_its_number_of_steps(tmp_path, commands):
    flags = ["--data_dir=d", f"--workdir={tmp_path}", "--imagenet_weights=w.h5"]
    assert thesis.run([*flags, "--thesis_epochs"]) == 0
    for name, (_, arguments) in zip(RUNS, commands.seen[:12], strict=True):
        steps = 26820 // RUNS[name][-1]
        assert [each for each in arguments if "steps" in each] == [f"--steps_per_epoch={steps}"]


def test_the_thesis_number_of_steps_follows_a_batch_size_of_ones_own(tmp_path, commands):
    flags = ["--data_dir=d", f"--workdir={tmp_path}", "--recipes=small_mse", "--thesis_epochs"]
    assert thesis.run([*flags, "--batch_size=24"]) == 0
    assert commands.seen[0][1][-2:] == ["--steps_per_epoch=1117", "--batch_size=24"]


def test_two_numbers_of_steps_are_refused(tmp_path, commands, capsys):
    flags = ["--data_dir=d", f"--workdir={tmp_path}", "--recipes=small_mse", "--thesis_epochs"]
    assert thesis.run([*flags, "--steps_per_epoch=5"]) == 2
    assert "--thesis_epochs and --steps_per_epoch: give one" in capsys.readouterr().err
    assert commands.seen == []


def test_results_stand_beside_those_of_the_same_run_of_the_thesis(tmp_path, commands):
    names = ["small_mse", "small_dssim", "add13_mse", "act40_dssim"]
    flags = ["--data_dir=d", f"--workdir={tmp_path}", f"--recipes={','.join(names[::-1])}"]
    assert thesis.run(flags) == 0
    with (tmp_path / "thesis.csv").open() as file:
        rows = {row["recipe"]: row for row in csv.DictReader(file)}
    assert list(rows) == names[::-1]
    with (pathlib.Path(ixi_tfds.__file__).parent / "thesis_results.csv").open() as file:
        rows_published = {row["recipe"]: row for row in csv.DictReader(file)}
    for name in names:
        number, row = list(RUNS).index(name), {k: v for k, v in rows[name].items() if k != "recipe"}
        # The one without augmented validation went by the plain loss.
        loss = 1 / 64 if name == "small_dssim" else number
        ours = {"val_loss": loss, "epoch": number + 1, "psnr_mean": 30 + number}
        ours["ssim_mean"] = 1 / (2 + number)
        theirs = {f"{key}_thesis": float(rows_published[name][key]) for key in ours}
        assert {key: float(value) for key, value in row.items()} == ours | theirs


def test_runs_of_the_thesis_that_fail_are_named_and_the_others_scored(tmp_path, commands, capsys):
    commands.failing |= {("trainer", "big_mse"), ("evaluator", "add13_mse")}
    names = ["small_mse", "big_mse", "add13_mse", "add13_dssim"]
    flags = ["--data_dir=d", f"--workdir={tmp_path}", f"--recipes={','.join(names)}"]
    assert thesis.run(flags) == 2
    assert capsys.readouterr().err.startswith("error: big_mse, add13_mse: not finished")
    with (tmp_path / "thesis.csv").open() as file:
        assert [row["recipe"] for row in csv.DictReader(file)] == ["small_mse", "add13_dssim"]


def test_each_recipe_tells_its_command_and_the_published_result():
    for name, path in RECIPES.items():
        text = path.read_text()
        assert f"python -m trainer --flagfile=trainer/recipes/{name}.flags" in text
        row = published().loc[name]
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", text.split("Published")[1])]
        assert numbers[:9] == [row["val_loss"], *row.filter(regex="psnr|ssim")]
        assert f"in epoch {row['epoch']:.0f};" in text


def networks():
    """The recipes by network: those that share one are tried one after the other."""
    groups = collections.defaultdict(list)
    for name, (model, weights, *_) in RUNS.items():
        groups[model, weights].append(name)
    return [pytest.param(names, id="-".join(key)) for key, names in groups.items()]


@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("names", networks())
def test_every_recipe_and_the_same_with_adam_trains_and_exports(
    names, weights_file, tmp_path, monkeypatch
):
    """Three eager steps each: the graphs of ResNet50 take far longer to make than to run."""
    random = np.random.default_rng(0)
    batch = {"image": random.integers(0, 256, (4, 32, 32, 1)).astype(np.uint8)}
    batches = tf.data.Dataset.range(3).map(
        lambda n: batch | {"index": 4 * n + tf.range(4, dtype=tf.int64)}
    )
    for name, adam in [(name, adam) for name in names for adam in (False, True)]:
        if adam and RUNS[name][3] == "adam":
            continue
        flags = [f"--flagfile={RECIPES[name]}", "--batch_size=4", *["--optimizer=adam"] * adam]
        config = config_of(
            monkeypatch, *flags, *[f"--weights={weights_file}"] * (RUNS[name][1] == "imagenet")
        )
        weights = pretrained.read_resnet50(config.model.weights) if config.model.rgb else None
        model = training.build(config, (32, 32), weights)
        assert type(model.optimizer).__name__ == (
            "Adam" if config.optimizer == "adam" else "RMSprop"
        )
        before = [variable.numpy() for variable in model.network.trainable_variables]
        model.run_eagerly = True
        fitted = model.fit(batches, verbose=0)
        assert model.optimizer.iterations.numpy() == 3
        assert np.isfinite(fitted.history["loss"]).all()
        for variable, value in zip(model.network.trainable_variables, before, strict=True):
            assert np.abs(variable.numpy() - value).max() > 0, variable.name
    untrained.export_network(model.network, tmp_path / "1")
    slices = random.random((2, 32, 32, 1), dtype=np.float32)
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"](slices=slices)
    expected = to_grey(model.network(slices, training=False))
    assert served["reconstruction"].shape == (2, 32, 32, 1)
    np.testing.assert_allclose(served["reconstruction"], expected, atol=1e-4)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(root)
    return root


@pytest.mark.lanes
@pytest.mark.slow
def test_a_run_starts_with_the_weights_of_a_file(weights_file, data_dir, tmp_path):
    quick = ["--batch_size=8", "--epochs=1", "--noaugment", "--noaugment_validation"]
    where = [f"--data_dir={data_dir}", "--dataset=ixi_t1/tiny", f"--workdir={tmp_path}"]
    flags = [f"--flagfile={RECIPES['imagenet_add13_dssim']}", f"--weights={weights_file}"]
    assert run([*where, *flags, *quick, "--learning_rate=1e-12"]) == 0
    exported = tf.saved_model.load(tmp_path / "export/resnet50_add13/1")
    served = exported.signatures["serving_default"](slices=tf.zeros((2, 32, 32, 1)))
    assert served["reconstruction"].shape == (2, 32, 32, 1)
    # At next to no learning rate the weights stay what they were.
    stored = tf.train.load_checkpoint(str(tmp_path / "checkpoints/epoch-00001"))
    kernels = [
        stored.get_tensor(name)
        for name, shape in stored.get_variable_to_shape_map().items()
        if shape == [7, 7, 3, 64] and name.startswith("network/")
    ]
    kernel = pretrained.read_resnet50(str(weights_file))["conv1_conv"][0]
    np.testing.assert_allclose(kernels[0], kernel, atol=1e-6)


@pytest.mark.slow
def test_the_thesis_runs_by_one_command_and_goes_on_after_a_failure(
    data_dir, tmp_path, monkeypatch
):
    flags = [f"--data_dir={data_dir}", "--dataset=ixi_t1/tiny", f"--workdir={tmp_path}"]
    # A smaller model in place of the recipes' own.
    flags += ["--epochs=1", "--batch_size=8", "--model=resnet_like"]
    flags += ["--stem_filters=8", "--stage_filters=8", "--stage_blocks=1"]
    recipes = "--recipes=imagenet_add13_dssim,small_dssim"
    weights = "--imagenet_weights=nowhere.h5"
    command = [sys.executable, "-m", "trainer.thesis", *flags, recipes, weights]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    errors = done.stderr.strip().splitlines()
    assert errors[0].startswith("error: --weights=nowhere.h5")
    assert errors[-1].startswith("error: imagenet_add13_dssim: not finished")
    with (tmp_path / "thesis.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["recipe"] == "small_dssim"
    assert float(row["psnr_mean_thesis"]) == 40.057103
    with (tmp_path / "small_dssim/history.csv").open() as file:
        (epoch,) = csv.DictReader(file)
    assert float(row["val_loss"]) == float(epoch["val_loss_augmented"])
    assert row["psnr_mean"] in done.stdout
    # Once more, with what had failed left out: nothing is trained anew.
    before = (tmp_path / "small_dssim/state.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "small_dssim/evaluation")
    commands = {"trainer": run, "evaluator": evaluate}
    monkeypatch.setattr(thesis, "_run", lambda module, flags: commands[module](flags) == 0)
    assert thesis.run([*flags, "--recipes=small_dssim"]) == 0
    assert (tmp_path / "small_dssim/state.json").stat().st_mtime_ns == before


def test_slips_of_the_thesis_command_get_one_line(tmp_path, capsys):
    flags = [f"--data_dir={tmp_path}", f"--workdir={tmp_path}"]
    assert thesis.run([*flags, "--recipes=tiny_mse"]) == 2
    assert "--recipes=tiny_mse: choose from small_mse," in capsys.readouterr().err
    assert thesis.run(flags[:1]) == 2
    assert "workdir" in capsys.readouterr().err
