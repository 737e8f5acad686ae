"""What happens at the end of an epoch, and what a person sees meanwhile."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from trainer import callbacks
from trainer.config import TrainConfig
from trainer.workdir import RunState, add_epoch

RATE = 0.01


class Scripted(keras.callbacks.Callback):
    """Gives epochs the losses that a test wants; the values before go to the next callback."""

    def __init__(self, **losses):
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: values[epoch] for name, values in self.losses.items()})


class Rates(keras.callbacks.Callback):
    """The rate with which the optimizer makes the steps of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            self.seen.append(float(self.model.optimizer.learning_rate.numpy()))


def a_network():
    network = keras.Sequential([keras.layers.Dense(1, input_shape=(2,))])
    network.compile(keras.optimizers.Adam(RATE), "mse")
    return network


def fit(workdir, *, schedule="plateau", monitored="val_loss", epochs, **losses):
    """A fit of a small network under `EpochEnd`, its losses scripted."""
    network = a_network()
    checkpoint = tf.train.Checkpoint(network=network, optimizer=network.optimizer)
    run_state = RunState(RATE)
    rates = Rates()
    weights = []
    (workdir / "checkpoints").mkdir(exist_ok=True)
    config = TrainConfig(
        data_dir="D",
        workdir=str(workdir),
        schedule=schedule,
        epochs=epochs,
        augment_validation=monitored == "val_loss_augmented",
    )
    end = callbacks.EpochEnd(config, workdir, run_state, checkpoint)
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(network.get_weights())
    )
    network.fit(
        np.random.default_rng(0).random((8, 2)),
        np.ones(8),
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[Scripted(**losses), rates, end, keep],
    )
    return run_state, rates.seen, weights


ROOT = math.sqrt(0.1)
EXPECTED = {
    "plateau": [RATE, RATE, RATE, RATE * ROOT, RATE * ROOT],
    "cosine": [RATE * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)],
    "constant": [RATE] * 5,
}


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
def test_the_optimizer_steps_with_the_rate_that_the_history_tells(schedule, tmp_path):
    run_state, rates, _ = fit(
        tmp_path, schedule=schedule, epochs=5, loss=[1.0] * 5, val_loss=[0.5, 0.6, 0.7, 0.4, 0.45]
    )
    assert rates == pytest.approx(EXPECTED[schedule], rel=1e-6)
    with (tmp_path / "history.csv").open() as file:
        told = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert told == pytest.approx(EXPECTED[schedule], rel=1e-12)
    assert (run_state.best_epoch, run_state.epochs_done) == (4, 5)


def variables(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }


def test_last_and_best_epoch_leave_their_weights_and_what_goes_on_from_them(tmp_path):
    run_state, _, weights = fit(tmp_path, epochs=4, loss=[1.0] * 4, val_loss=[0.5, 0.4, 0.6, 0.45])
    assert run_state.best_epoch == 2
    names = {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"epoch-00002", "epoch-00004"}
    for epoch in (2, 4):
        saved = variables(tmp_path / f"checkpoints/epoch-{epoch:05d}")
        kernel, bias = weights[epoch - 1]
        (kernel_name,) = (n for n in saved if n.startswith("network/") and n.endswith("kernel"))
        np.testing.assert_array_equal(saved[kernel_name], kernel)
        np.testing.assert_array_equal(saved[kernel_name.replace("kernel", "bias")], bias)
        assert saved["optimizer/_iterations"] == 2 * epoch
        # The rate of the next epoch, with which a resumed run goes on.
        rate = RATE * (ROOT if epoch == 4 else 1)
        assert saved["optimizer/_learning_rate"] == pytest.approx(rate, rel=1e-6)
        assert sum("optimizer/_variables" in name for name in saved) >= 4
    assert json.loads((tmp_path / "state.json").read_text())["best_epoch"] == 2


def test_the_loss_that_the_config_names_decides(tmp_path):
    run_state, _, _ = fit(
        tmp_path,
        monitored="val_loss_augmented",
        epochs=3,
        loss=[1.0] * 3,
        val_loss=[0.1, 0.2, 0.3],
        val_loss_augmented=[0.5, 0.3, 0.4],
    )
    assert (run_state.best_epoch, run_state.best_loss) == (2, 0.3)


@pytest.mark.parametrize("name", ["loss", "val_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_epoch_whose_loss_is_no_number_is_not_entered(name, value, tmp_path):
    values = {"loss": [1.0, 1.0], "val_loss": [0.5, 0.5]}
    values[name] = [0.5, value]
    with pytest.raises(callbacks.DivergedError) as caught:
        fit(tmp_path, epochs=2, **values)
    assert str(caught.value) == (
        f"epoch 2: the loss on validation slices is not finite any more; {tmp_path} keeps the "
        "weights after epoch 1; take a lower --learning_rate and another --workdir"
    )
    assert len(json.loads((tmp_path / "state.json").read_text())["history"]) == 1
    names = {path.name.split(".")[0] for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"epoch-00001"}


def rates_of_steps(config, run_state, *, epochs, first=0):
    """The rate of each of four steps an epoch, from epoch `first` on."""
    seen = []
    network = a_network()
    # As a checkpoint restores it.
    network.optimizer.learning_rate = run_state.learning_rate
    checkpoint = tf.train.Checkpoint(network=network, optimizer=network.optimizer)
    workdir = pathlib.Path(config.workdir)
    network.fit(
        np.ones((16, 2)),
        np.ones(16),
        batch_size=4,
        initial_epoch=first,
        epochs=epochs,
        verbose=0,
        callbacks=[
            callbacks.StepRates(config, run_state),
            Scripted(loss=[1.0] * epochs, val_loss=[0.5] * epochs),
            callbacks.EpochEnd(config, workdir, run_state, checkpoint),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: seen.append(
                    float(network.optimizer.learning_rate.numpy())
                )
            ),
        ],
    )
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 4, 6, 20])
@pytest.mark.parametrize("schedule", ["cosine", "cosine_steps"])
def test_the_rate_rises_in_equal_steps_to_that_of_the_schedule(schedule, warmup, tmp_path):
    """Over the end of an epoch, too, and after a resume as without one."""
    (tmp_path / "checkpoints").mkdir()
    config = TrainConfig(
        data_dir="D", workdir=str(tmp_path), schedule=schedule, epochs=3, warmup_steps=warmup
    )
    run_state = RunState(RATE)
    seen = rates_of_steps(config, run_state, epochs=3)
    expected = [
        RATE
        * (1 + math.cos(math.pi * (step / 4 if schedule == "cosine_steps" else step // 4) / 3))
        / 2
        * min((step + 1) / max(warmup, 1), 1)
        for step in range(12)
    ]
    assert seen == pytest.approx(expected, rel=1e-5)
    # The history has the rate of the schedule.
    told = [row["learning_rate"] for row in run_state.history]
    assert told == pytest.approx([RATE, RATE * 0.75, RATE * 0.25])
    resumed = RunState(RATE * 0.75, run_state.history[:1], 1, 0.5)
    assert rates_of_steps(config, resumed, epochs=3, first=1) == pytest.approx(
        expected[4:], rel=1e-5
    )


class Loss:
    """A loss on a device, which knows when somebody waited for it."""

    def __init__(self, value):
        self.value = value
        self.looked_at = False

    def __float__(self):
        self.looked_at = True
        return self.value


def finite_loss(workdir, asked=None):
    def keys_of(epoch, step):
        (asked if asked is not None else []).append((epoch, step))
        return ["IXI002/040", "IXI012/041"]

    return callbacks.FiniteLoss(workdir, keys_of)


def test_a_step_is_looked_at_eight_steps_later_and_the_rest_when_the_epoch_ends(tmp_path):
    watch = finite_loss(tmp_path)
    losses = [Loss(1.0) for _ in range(12)]
    watch.on_epoch_begin(0)
    for step, loss in enumerate(losses):
        watch.on_train_batch_end(step, {"loss": loss})
        assert [one.looked_at for one in losses] == [number <= step - 8 for number in range(12)]
    watch.on_epoch_end(0)
    assert all(one.looked_at for one in losses)
    # Nothing is left over for the next epoch.
    assert not watch.losses


@pytest.mark.parametrize(
    ("epoch", "kept"), [(0, ""), (3, "; {workdir} keeps the weights after epoch 3")]
)
@pytest.mark.parametrize(("bad", "last"), [(1, 9), (11, None)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_step_to_blame_is_named(epoch, kept, bad, last, value, tmp_path):
    asked = []
    watch = finite_loss(tmp_path, asked)
    watch.on_epoch_begin(epoch)
    step = None
    with pytest.raises(callbacks.DivergedError) as caught:
        for step in range(12):
            # A running mean stays what it has become.
            watch.on_train_batch_end(step, {"loss": tf.constant(value if step >= bad else 1.0)})
        step = None
        watch.on_epoch_end(epoch)
    assert step == last and asked == [(epoch, bad)]
    assert str(caught.value) == (
        f"epoch {epoch + 1}, step {bad + 1}: the loss is {value} on slices IXI002/040, IXI012/041"
        + kept.format(workdir=tmp_path)
        + "; take a lower --learning_rate and another --workdir"
    )


def test_steps_are_handed_over_as_tensors_for_which_nobody_waits(tmp_path):
    kinds = set()

    class Watch(callbacks.FiniteLoss):
        def on_train_batch_end(self, batch, logs=None):
            kinds.add(tf.is_tensor(logs["loss"]))
            super().on_train_batch_end(batch, logs)

    watch = Watch(tmp_path, lambda epoch, step: [])
    a_network().fit(np.ones((8, 2)), np.ones(8), batch_size=2, verbose=0, callbacks=[watch])
    assert kinds == {True} and watch.epoch == 0 and not watch.losses


def events(folder):
    """(step, tag, summary value) of all event files."""
    found = []
    for path in folder.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [(event.step, value.tag, value) for value in event.summary.value]
    return found


def test_tensorboard_shows_each_value_and_slices_beside_their_reconstructions(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 1)).astype(np.uint8)
    marking = keras.layers.Lambda(lambda x: tf.concat([x / 2, x], axis=-1), input_shape=(4, 6, 1))
    network = keras.Sequential([marking])
    network.grey_of = lambda result: result[..., :1]
    run_state = RunState(RATE)
    board = callbacks.TensorBoard(tmp_path, run_state, images)
    board.set_model(network)
    for epoch, loss in enumerate((0.75, 0.5)):
        add_epoch(run_state, {"val_loss": loss}, TrainConfig(data_dir="D", workdir="W"))
        board.on_epoch_end(epoch)
    found = events(tmp_path)
    scalars = {
        (step, tag): float(tf.make_ndarray(value.tensor))
        for step, tag, value in found
        if "slice" not in tag
    }
    assert scalars == {
        (1, "epoch"): 1.0,
        (2, "epoch"): 2.0,
        (1, "learning_rate"): pytest.approx(RATE),
        (2, "learning_rate"): pytest.approx(RATE),
        (1, "val_loss"): 0.75,
        (2, "val_loss"): 0.5,
    }
    shown = [(step, value) for step, tag, value in found if tag == "slice and reconstruction"]
    assert [step for step, _ in shown] == [1, 2]
    for _, value in shown:
        width, height, *pngs = tf.make_ndarray(value.tensor)
        # 4 rows and 6 columns, superior up: 6 rows, and 4 columns twice.
        assert (int(width), int(height), len(pngs)) == (8, 6, 5)
        for png, image in zip(pngs, images, strict=True):
            pair = tf.io.decode_png(png).numpy()[..., 0].astype(int)
            turned = np.rot90(image[..., 0]).astype(int)
            np.testing.assert_allclose(pair[:, :4], turned, atol=1)
            np.testing.assert_allclose(pair[:, 4:], turned / 2, atol=1)


@pytest.mark.parametrize(
    ("steps", "length", "stops"), [(1, 5, 2), (2, 5, 3), (3, 5, 4), (3, 4, "end"), (2, 2, None)]
)
def test_a_profile_has_as_many_steps_as_asked_from_the_third_on(
    steps, length, stops, tmp_path, monkeypatch
):
    calls, now = [], None
    monkeypatch.setattr(
        tf.profiler.experimental, "start", lambda folder: calls.append(("start", folder, now))
    )
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append(("stop", now)))
    profile = callbacks.Profile(tmp_path, steps)
    for epoch in range(3):
        for now in range(length):
            profile.on_train_batch_begin(now)
            profile.on_train_batch_end(now)
        now = "end"
        profile.on_epoch_end(epoch)
    # Once, in the first epoch; an epoch of two steps has no third.
    assert calls == ([] if stops is None else [("start", str(tmp_path), 2), ("stop", stops)])


class Clock:
    """Stands still but for what a test says."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(callbacks.time, "monotonic", lambda: self.now)


def test_the_bar_tells_means_speed_and_the_time_left_for_all_epochs(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = callbacks.ProgressBar(batch_size=16, first_epoch=2)
    bar.set_params({"epochs": 6, "steps": 10})
    bar.on_train_begin()
    clock.now += 10
    bar.on_epoch_begin(2)
    assert (bar.epoch, bar.first_epoch) == (2, 2)
    for step in range(5):
        clock.now += 4
        bar.on_batch_end(step, {"loss": 0.123456, "psnr": 21.5})
    # The base class hands over its sums and a divisor; the means are shown as they are.
    clock.now += 50
    # 5 steps of 16 in 20 s; half an epoch of 4 took 80 s, so the other 3.5 take 560 s.
    text = bar.format_metrics({"loss": 7.0}, 5)
    assert text == "loss 0.1235  psnr 21.5  4 images/s  9:20 left"
    # The end of the epoch, with what validation found: 10 steps, and 3 epochs to go.
    bar.on_batch_end(9, {"loss": 0.1})
    text = bar.format_metrics({"loss": 0.1, "val_loss": 0.25})
    assert text == "loss 0.1  val_loss 0.25  2 images/s  4:00 left"
    bar.on_epoch_end(2, {"loss": 0.1, "val_loss": 0.25})
    # The next epoch has a clock of its own, the run's goes on.
    clock.now += 20
    bar.on_epoch_begin(3)
    clock.now += 1.03
    bar.on_batch_end(0, {"loss": 0.5})
    # 16 in 1.03 s are 15.53 a second, not 15; 101 s for 1.1 epochs; 2.9 are left.
    assert bar.format_metrics({}) == "loss 0.5  16 images/s  4:26 left"
    bar.on_train_end()
    assert "Epoch 3/6" in capsys.readouterr().out


def test_the_bar_is_drawn_on_the_terminal_with_its_text_behind(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    # The least time between two drawings.
    assert callbacks.ProgressBar(4, 0).update_interval == 0.25
    network = a_network()
    bar = callbacks.ProgressBar(batch_size=4, first_epoch=0)
    clock.now += 1
    network.fit(np.ones((8, 2)), np.ones(8), batch_size=4, verbose=0, callbacks=[bar])
    captured = capsys.readouterr()
    assert "Epoch 1/1" in captured.out
    last = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("2/2 |" + "█" * 20 + "| loss ")
    assert last.strip().endswith("left") and "Training" not in captured.err
