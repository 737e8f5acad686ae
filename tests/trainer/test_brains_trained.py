"""Models of brains by the command: what they learn, and what is refused in one line."""

import csv
import functools
import json

import forked
import numpy as np
import pytest
import tensorflow as tf
import tiny_brains
import tiny_dataset

from trainer import tune
from trainer.__main__ import run

EPOCHS, STEPS, BATCH = 3, 5, 6
FLAGS = [
    *(f"--dataset={tiny_brains.NAME}", f"--batch_size={BATCH}", f"--epochs={EPOCHS}"),
    # The warm-up ends in the second epoch.
    *("--model=unet", "--optimizer=adam", "--learning_rate=0.002", "--schedule=cosine"),
    *("--warmup_steps=7", "--clip_norm=1"),
]
TASKS = ["denoise", "repair"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tiny_brains.write_tiny_brains(tmp_path_factory.mktemp("brains"))


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    tiny_dataset.write_tiny_dataset(root)
    return root


def train(data_dir, folder, *flags, before=(), code=0):
    """A run in a process of its own; returns its folder."""
    argv = [f"--data_dir={data_dir}", f"--workdir={folder}/run", *FLAGS, *flags]
    started = forked.start(argv, folder / "log.txt", *before)
    assert forked.finish(started, seconds=900) == [code], (folder / "log.txt").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    return functools.cache(
        lambda task: train(data_dir, tmp_path_factory.mktemp(task), f"--task={task}")
    )


def history(folder):
    with (folder / "history.csv").open() as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def files(folder):
    """The bytes of all that a run leaves, of TensorBoard's and the checkpoints' files aside."""
    kept = [folder / "history.csv", folder / "state.json", *folder.glob("export/**/*.*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.is_file()}


def variables(folder):
    """Each variable of the last checkpoint, those of the optimizer among them."""
    reader = tf.train.load_checkpoint(str(folder / f"checkpoints/epoch-{EPOCHS:05d}"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_comes_to_the_same_bytes(task, undisturbed, data_dir, tmp_path):
    """Killed in the second epoch, before the warm-up has ended."""
    killed = [functools.partial(forked.die_at_step, STEPS + 1)]
    train(data_dir, tmp_path, f"--task={task}", before=killed, code=-9)
    ours, theirs = train(data_dir, tmp_path, f"--task={task}"), undisturbed(task)
    assert "resuming after epoch 1 of 3" in (tmp_path / "log.txt").read_text()
    assert files(ours) == files(theirs)
    assert variables(ours) == variables(theirs)
    assert any("export/unet/1/saved_model.pb" in name for name in files(ours))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_replicas_learn_as_one_does(task, data_dir, tmp_path):
    """By small steps: sums in another order differ in bits that Adam's large ones make larger."""
    flags = (f"--task={task}", "--epochs=1", "--learning_rate=0.00001")
    for name in "12":
        (tmp_path / name).mkdir()
    one, two = (
        history(train(data_dir, tmp_path / name, *flags, f"--replicas={name}")) for name in "12"
    )
    assert len(one) == len(two) == 1
    for name in ("loss", "val_loss", "val_psnr"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-4), name


@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_in_16_bits_the_losses_are_near_those_of_32(task, undisturbed, data_dir, tmp_path):
    ours = history(train(data_dir, tmp_path, f"--task={task}", "--mixed_precision"))
    assert "mixed_bfloat16" in (tmp_path / "log.txt").read_text()
    for mine, other in zip(ours, history(undisturbed(task)), strict=True):
        assert np.isfinite([*mine.values()]).all()
        assert mine["val_loss"] == pytest.approx(other["val_loss"], rel=0.15)


@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_losses_fall(task, undisturbed):
    rows = history(undisturbed(task))
    losses = [row["val_loss"] for row in rows]
    assert losses[-1] < 0.95 * losses[0]
    assert set(rows[0]) >= {"loss", "psnr", "val_loss", "val_psnr", "val_ssim"}
    assert "val_loss_augmented" not in rows[0]


def gradient_length(folder):
    """Of the first step, from Adam's second moments: a thousandth of the squares."""
    reader = tf.train.load_checkpoint(str(folder / "checkpoints/epoch-00001"))
    numbered = {}
    for name in reader.get_variable_to_shape_map():
        if "optimizer/_variables/" in name:
            numbered[int(name.split("/")[2])] = reader.get_tensor(name)
    slots = {number: value for number, value in numbered.items() if np.ndim(value)}
    kinds = [[v for n, v in slots.items() if n % 2 == parity] for parity in (0, 1)]
    (seconds,) = (kind for kind in kinds if all((values >= 0).all() for values in kind))
    return np.sqrt(sum(values.sum(dtype=float) for values in seconds) / 0.001)


@pytest.mark.slow
def test_the_gradient_of_all_replicas_together_is_shortened(data_dir, tmp_path):
    one_step = ["--task=denoise", "--epochs=1", "--batch_size=30", "--warmup_steps=0"]
    lengths = []
    for clip in (1e3, 1e-4):
        folder = tmp_path / f"{clip}"
        folder.mkdir()
        flags = [*one_step, "--replicas=2", f"--clip_norm={clip}"]
        lengths.append(gradient_length(train(data_dir, folder, *flags)))
    long, shortened = lengths
    assert 1e-3 < long < 1e3
    assert shortened == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.lanes
@pytest.mark.slow
def test_a_model_of_the_thesis_learns_to_repair(data_dir, tmp_path):
    thesis = ["--model=small_resnet", "--optimizer=rmsprop", "--warmup_steps=0", "--clip_norm=0"]
    folder = train(data_dir, tmp_path, "--task=repair", *thesis)
    losses = [row["loss"] for row in history(folder)]
    assert losses[-1] < 0.8 * losses[0]
    exported = tf.saved_model.load(str(folder / "export/small_resnet/1"))
    volume = np.full((*tiny_brains.SIZE, 4), 0.8, np.float32)
    found = exported.signatures["volume"](volume=volume, mask=np.ones_like(volume))
    assert found.keys() == {"repaired", "residual", "mark"}
    assert {value.shape for value in found.values()} == {volume.shape}


@pytest.mark.lanes
@pytest.mark.slow
def test_the_card_tells_the_task_and_nothing_that_it_ignores(undisturbed):
    for task in TASKS:
        path = undisturbed(task) / "export/unet/1/assets.extra/model_card.json"
        card = json.loads(path.read_text())
        assert card["flags"]["task"] == task and card["augmentation"] is None
        ignored = {"loss", "dssim_weight", "augment", "augment_fraction", "augment_validation"}
        assert not ignored & card["flags"].keys()
        assert card["flags"]["warmup_steps"] == 7 and card["flags"]["clip_norm"] == 1
        assert list(card["signatures"]) == ["serving_default", "volume"]
        assert ("mark" in card["signatures"]["volume"]["gives"]) == (task == "repair")


def refused(capsys, *flags):
    """The one line that is left of a run."""
    assert run(list(flags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("task", TASKS)
def test_whole_heads_are_refused_by_tasks_of_brains(task, heads_dir, tmp_path, capsys):
    flags = [f"--data_dir={heads_dir}", "--dataset=ixi_t1/tiny", f"--workdir={tmp_path}/run"]
    assert refused(capsys, *flags, f"--task={task}", "--batch_size=4") == (
        f"error: --task={task}: --dataset=ixi_t1/tiny holds no brains; make a dataset of brains by "
        "python -m beam_preprocess --config=brain_2mm_axial"
    )
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    "given",
    [
        *("--loss=dssim", "--loss=mse", "--augment", "--noaugment", "--augment_validation"),
        *("--augment_fraction=0.5", "--gaussian_noise=0.1", "--rician_noise=0.1"),
    ],
)
def test_flags_that_a_task_would_ignore_are_refused(given, tmp_path, capsys):
    flags = [f"--data_dir={tmp_path}", f"--workdir={tmp_path}/run", "--task=repair"]
    name = given.split("=")[0].replace("--no", "--")
    line = refused(capsys, *flags, given)
    assert line == f"error: {name} goes with --task=reconstruct only"


def test_brains_of_two_planes_are_not_learned_together(data_dir, tmp_path, capsys):
    """As numbers of one size, but a model knows one plane."""
    other = tiny_brains.write_tiny_brains(
        tmp_path, "--plane=coronal", "--config=other", "--slices=0:12"
    )
    (tmp_path / "both/ixi_t1").mkdir(parents=True)
    for folder in (data_dir / "ixi_t1/small", other / "ixi_t1/other"):
        (tmp_path / "both/ixi_t1" / folder.name).symlink_to(folder)
    capsys.readouterr()
    flags = [f"--data_dir={tmp_path}/both", "--dataset=ixi_t1/small,ixi_t1/other"]
    line = refused(capsys, *flags, f"--workdir={tmp_path}/run", "--task=denoise")
    assert "scaled by tissue and sagittal of 5x5x5 mm, of preprocessing" in line
    assert "scaled by tissue and coronal of 5x5x5 mm" in line


@pytest.mark.slow
def test_a_search_tries_a_task_and_its_best_flags_train(data_dir, tmp_path, capsys):
    flags = [f"--data_dir={data_dir}", f"--dataset={tiny_brains.NAME}", "--batch_sizes=6"]
    few = ["--epochs=2", "--factor=2", "--max_trials=2", "--max_parameters=450000"]
    where = f"--tuning_dir={tmp_path}/search"
    assert tune.run([*flags, *few, where, "--task=denoise"]) == 0
    found = (tmp_path / "search/best.flags").read_text().splitlines()
    assert "--task=denoise" in found
    names = {line.split("=")[0] for line in found}
    assert not names & {"--loss", "--augment", "--noaugment", "--gaussian_noise"}
    with (tmp_path / "search/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "learning_rate" in rows[0] and "loss" not in rows[0]
    best = [f"--flagfile={tmp_path}/search/best.flags", f"--workdir={tmp_path}/best", "--epochs=1"]
    assert run(best) == 0
    assert history(tmp_path / "best")[0]["val_psnr"] > 0
    capsys.readouterr()
    # Another task is another search.
    assert tune.run([*flags, *few, where, "--task=repair"]) == 2
    assert "belongs to a run with --task=denoise" in capsys.readouterr().err
