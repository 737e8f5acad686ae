"""Where a run stands: learning rate, best epoch, and the files that it counts on."""

import csv
import json
import math
import pathlib

import pytest
import tensorflow as tf

from ixi_tfds.system.errors import UserError
from trainer import models, workdir
from trainer.config import TrainConfig


def after(losses, *, rate=1e-3, name="val_loss", **options):
    """A run's state after epochs with these losses."""
    run_state = workdir.RunState(learning_rate=rate)
    config = TrainConfig(
        data_dir="D", workdir="W", augment_validation=name != "val_loss", **options
    )
    for loss in losses:
        workdir.add_epoch(run_state, {"loss": 9.0, name: loss}, config)
    return run_state


def test_a_new_run_has_no_best_epoch():
    fresh, other = workdir.RunState(0.5), workdir.RunState(0.5)
    assert (fresh.learning_rate, fresh.history, fresh.epochs_done) == (0.5, [], 0)
    assert (fresh.best_epoch, fresh.best_loss, fresh.wait) == (0, math.inf, 0)
    fresh.history.append({"epoch": 1})
    assert fresh.epochs_done == 1
    # Two runs of one process share nothing.
    assert other.history == []


def test_an_epoch_is_entered_with_the_rate_that_it_had():
    run_state = after([0.5, 0.4, 0.45, 0.6], rate=0.1)
    assert run_state.history == [
        {"epoch": 1, "learning_rate": 0.1, "loss": 9.0, "val_loss": 0.5},
        {"epoch": 2, "learning_rate": 0.1, "loss": 9.0, "val_loss": 0.4},
        {"epoch": 3, "learning_rate": 0.1, "loss": 9.0, "val_loss": 0.45},
        {"epoch": 4, "learning_rate": 0.1, "loss": 9.0, "val_loss": 0.6},
    ]
    assert run_state.epochs_done == 4
    # Two epochs without a new best: the fifth has a rate lower by the square root of 10.
    assert run_state.learning_rate == pytest.approx(0.0316227766)
    assert (run_state.best_epoch, run_state.best_loss, run_state.wait) == (2, 0.4, 0)


def test_the_monitored_loss_decides_and_no_other():
    run_state = workdir.RunState(0.1)
    config = TrainConfig(data_dir="D", workdir="W", augment_validation=True)
    for clean, augmented in ((0.1, 0.5), (0.2, 0.4), (0.3, 0.6)):
        metrics = {"loss": clean, "val_loss": clean, "val_loss_augmented": augmented}
        workdir.add_epoch(run_state, metrics, config)
    assert (run_state.best_epoch, run_state.best_loss, run_state.wait) == (2, 0.4, 1)


@pytest.mark.parametrize(
    ("losses", "wait", "falls"),
    [
        ([5.0], 0, 0),
        ([5.0, 6.0], 1, 0),
        ([5.0, 6.0, 6.0], 0, 1),
        # As good as the best is not better than it.
        ([5.0, 5.0], 1, 0),
        ([5.0, 5.0, 5.0], 0, 1),
        # The least gain counts, and the count begins anew.
        ([5.0, 6.0, 4.999999], 0, 0),
        ([5.0, 6.0, 4.0, 6.0], 1, 0),
        ([5.0, 6.0, 4.0, 6.0, 6.0], 0, 1),
        # What is better than the last epoch, not than the best, does not count.
        ([5.0, 7.0, 6.0], 0, 1),
        # After a fall the count begins anew, too.
        ([5.0, 6.0, 6.0, 6.0], 1, 1),
        ([5.0, 6.0, 6.0, 6.0, 6.0], 0, 2),
    ],
)
def test_the_rate_falls_after_two_epochs_without_a_better_loss(losses, wait, falls):
    run_state = after(losses)
    assert run_state.wait == wait
    assert run_state.learning_rate == pytest.approx(1e-3 * 0.1 ** (falls / 2), rel=1e-12)
    assert run_state.best_loss == min(losses)
    assert run_state.best_epoch == losses.index(min(losses)) + 1


def test_the_rate_stays_above_the_least_and_a_lower_one_of_the_user_stays_as_it_is():
    # One fall would end below.
    assert after([1.0, 2.0, 2.0], rate=1e-6).learning_rate == 0.5e-6
    assert after([1.0, 2.0, 2.0], rate=0.6e-6).learning_rate == 0.5e-6
    # There nothing falls any more, so that no count begins anew.
    least = after([1.0, 2.0, 2.0, 2.0], rate=0.5e-6)
    assert (least.learning_rate, least.wait) == (0.5e-6, 3)
    lower = after([1.0, 2.0, 2.0, 2.0], rate=1e-7)
    assert (lower.learning_rate, lower.wait) == (1e-7, 3)


def test_a_cosine_falls_along_half_a_period():
    rates = [after([1.0] * epochs, rate=0.2, schedule="cosine", epochs=8) for epochs in range(9)]
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(8)]
    assert [one.learning_rate for one in rates[:8]] == pytest.approx(expected, rel=1e-12)
    assert rates[8].learning_rate == 0.5e-6
    # Whatever the losses do: it is no fall of the plateau's as well.
    assert rates[8].wait == 7
    rising = after([1.0, 2.0, 3.0, 4.0], rate=0.2, schedule="cosine", epochs=8)
    assert rising.learning_rate == pytest.approx(0.1)


def test_a_constant_rate_stays_and_the_plateau_is_what_is_meant_where_none_is_named():
    constant = after([1.0] * 6, schedule="constant")
    assert (constant.learning_rate, constant.wait, constant.best_epoch) == (1e-3, 5, 1)
    assert after([1.0] * 3).learning_rate == after([1.0] * 3, schedule="plateau").learning_rate
    assert after([1.0] * 3).learning_rate < 1e-3


def test_a_checkpoint_is_named_by_its_epoch(tmp_path):
    assert workdir.checkpoint_path(tmp_path, 7) == tmp_path / "checkpoints/epoch-00007"
    assert workdir.checkpoint_path(tmp_path, 12345) == tmp_path / "checkpoints/epoch-12345"


CHECKPOINT = ("index", "data-00000-of-00001")


def make_checkpoints(workdir, *epochs):
    (workdir / "checkpoints").mkdir(exist_ok=True)
    for epoch in epochs:
        for suffix in CHECKPOINT:
            (workdir / f"checkpoints/epoch-{epoch:05d}.{suffix}").write_text(f"{epoch}")


def kept(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def named(*epochs):
    return sorted(f"epoch-{epoch:05d}.{suffix}" for epoch in epochs for suffix in CHECKPOINT)


def test_what_is_written_is_read_again_and_only_last_and_best_checkpoint_stay(tmp_path):
    run_state = after([0.5, 0.4, 0.45, 0.44, 0.7], rate=0.1)
    make_checkpoints(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "checkpoints/epoch-00006_temp").mkdir()
    (tmp_path / "checkpoints/epoch-00006_temp/part").write_text("half written")
    workdir.write_state(tmp_path, run_state)
    assert kept(tmp_path) == named(2, 5)
    again = workdir.read_state(tmp_path, 99.0)
    assert again == run_state
    assert (again.wait, again.best_epoch, again.best_loss, again.epochs_done) == (1, 2, 0.4, 5)
    assert again.learning_rate == pytest.approx(0.0316227766)
    written = (tmp_path / "state.json").read_text()
    assert json.loads(written)["history"] == run_state.history and written.endswith("}\n")
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_loss"] for row in rows] == ["0.5", "0.4", "0.45", "0.44", "0.7"]
    assert (
        (tmp_path / "history.csv")
        .read_bytes()
        .startswith(b"epoch,learning_rate,loss,val_loss\n1,0.1,9.0,0.5\n")
    )
    assert not list(tmp_path.glob(".partial-*"))


def test_where_the_last_epoch_is_the_best_one_checkpoint_stays(tmp_path):
    make_checkpoints(tmp_path, 1, 2, 3)
    workdir.write_state(tmp_path, after([0.5, 0.4, 0.3]))
    assert kept(tmp_path) == named(3)


def test_no_checkpoint_goes_before_the_state_that_does_without_it_is_there(tmp_path):
    make_checkpoints(tmp_path, 1, 2)
    (tmp_path / "state.json").mkdir()
    with pytest.raises(OSError):
        workdir.write_state(tmp_path, after([0.5, 0.4]))
    assert kept(tmp_path) == named(1, 2) and not (tmp_path / "history.csv").exists()


def test_the_history_of_no_epoch_is_an_empty_file(tmp_path):
    workdir.write_history(tmp_path, workdir.RunState(0.1))
    assert (tmp_path / "history.csv").read_bytes() == b""


def test_without_a_state_a_run_begins_with_the_rate_of_its_flag(tmp_path):
    assert workdir.read_state(tmp_path, 0.25) == workdir.RunState(learning_rate=0.25)


ROW = {"epoch": 1, "learning_rate": 0.1, "loss": 1.0, "val_loss": 1.0}


@pytest.mark.parametrize(
    ("best", "epochs", "fits"),
    [(0, 0, False), (0, 2, False), (1, 1, True), (1, 2, True), (2, 2, True), (3, 2, False)],
)
def test_a_state_whose_best_epoch_is_none_of_its_epochs_is_refused(best, epochs, fits, tmp_path):
    content = {"learning_rate": 0.1, "history": [ROW] * epochs, "best_epoch": best}
    (tmp_path / "state.json").write_text(json.dumps(content))
    if fits:
        assert workdir.read_state(tmp_path, 0.5).best_epoch == best
        return
    with pytest.raises(UserError, match="its best epoch is not one of its epochs") as caught:
        workdir.read_state(tmp_path, 0.5)
    assert str(caught.value).startswith(f"{tmp_path / 'state.json'}: is not the state of a run (")
    assert str(caught.value).endswith("); restore the file, or start again with another --workdir")


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[1]", b'{"epochs": 3}', b'{"learning_rate": 1, "history": 3}']
)
def test_a_file_that_is_no_state_is_refused(content, tmp_path):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.json: is not the state of a run"):
        workdir.read_state(tmp_path, 0.1)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.NotFoundError(None, None, "no file"),
        tf.errors.DataLossError(None, None, "checksum"),
        AssertionError("not consumed"),
        ValueError("shapes"),
        IndexError("keys"),
    ],
)
def test_what_tensorflow_says_of_a_checkpoint_is_told_in_one_sentence(error, tmp_path):
    path = tmp_path / "epoch-00001"
    with pytest.raises(UserError) as caught, workdir.restoring(path):
        raise error
    assert str(caught.value) == (
        f"{path}: this checkpoint is missing or damaged; restore the file, or start again with "
        "another --workdir"
    )
    assert caught.value.__cause__ is error


def test_other_errors_are_not_blamed_on_the_checkpoint(tmp_path):
    with pytest.raises(KeyError), workdir.restoring(tmp_path):
        raise KeyError("of our own")
    with workdir.restoring(tmp_path):
        pass


class Hidden(tf.Module):
    """A network with a variable that TensorFlow's checkpoints do not follow."""

    def __init__(self):
        super().__init__()
        self.followed = tf.Variable(1.0)
        self.layers = (lambda layer: lambda: layer)(tf.Variable(2.0))

    @property
    def variables(self):
        return (self.followed, self.layers())


def test_a_checkpoint_that_lacks_a_variable_of_the_network_is_refused(tmp_path):
    network = Hidden()
    path = tf.train.Checkpoint(network=network).write(str(tmp_path / "x"))
    # It looks complete to TensorFlow.
    tf.train.Checkpoint(network=network).read(path).assert_consumed()
    with pytest.raises(RuntimeError, match="has 1 of the network's 2 variables"):
        workdir.check_whole(pathlib.Path(path), network)


@pytest.mark.parametrize("name", ["small_resnet", "resnet50"])
def test_a_checkpoint_has_every_variable_of_every_layer(name, tmp_path):
    def build():
        return models.build(models.ModelSpec(name=name), (64, 64))

    network, other = build(), build()
    for number, variable in enumerate(network.variables):
        variable.assign(tf.fill(variable.shape, float(number)))
    path = tf.train.Checkpoint(network=network).write(str(tmp_path / "x"))
    workdir.check_whole(pathlib.Path(path), network)
    tf.train.Checkpoint(network=other).read(path).assert_consumed()
    for mine, theirs in zip(network.variables, other.variables, strict=True):
        assert (mine.numpy() == theirs.numpy()).all(), mine.name
