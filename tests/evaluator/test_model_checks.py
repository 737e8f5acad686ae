"""Models that are not what their card says, or that have learned from other slices."""

import ast
import json
import pathlib
import pickle
import shutil
import subprocess

import pytest
import tiny_dataset
import untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile_names import json_values

from evaluator import __main__ as evaluator
from evaluator import models
from evaluator.published import published_for
from evaluator.report import page, sections
from ixi_tfds import config
from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import DatasetFacts, ModelCard
from ixi_tfds.system.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return untrained.export_untrained(tmp_path_factory.mktemp("models") / "small_resnet/1")


@pytest.fixture
def model(original, tmp_path):
    return shutil.copytree(original, tmp_path / "small_resnet/1")


def evaluate(model, data_dir, *more):
    where = [f"--saved_model={model}", f"--data_dir={data_dir}", "--dataset=ixi_t1/tiny"]
    return evaluator.run([*where, f"--output_dir={model.parent}/scores", *more])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def loads_nothing(monkeypatch):
    monkeypatch.setattr("tensorflow.saved_model.load", lambda path: pytest.fail("was loaded"))


@pytest.mark.parametrize(
    "name",
    ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"],
)
def test_a_changed_model_is_refused_before_it_is_loaded(name, model, loads_nothing):
    flip_a_bit(model / name)
    with pytest.raises(UserError, match=r"not those of its model card.*--allow_changed_model") as e:
        models.load_model(model)
    assert "a SavedModel is code" in str(e.value) and "\n" not in str(e.value)


def test_the_digest_is_of_what_tensorflow_reads(tmp_path):
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / name).write_text(name)
    digest = model_card.digest(tmp_path)
    for name in (".DS_Store", "._variables.index", "variables.index~", "Thumbs.db", ".nfs0001"):
        (tmp_path / "variables" / name).touch()
    assert model_card.digest(tmp_path) == digest
    (tmp_path / "variables/variables.data-00000-of-00001").touch()
    assert model_card.digest(tmp_path) != digest


def test_the_digest_is_what_sha256sum_prints_in_the_folder(tmp_path):
    data = ("variables/variables.data-00001-of-00002", "variables/variables.data-00000-of-00002")
    for name in ("b", "a", *data, "saved_model.pb", "variables/variables.index"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 1000)
    command = "LC_ALL=C; export LC_ALL; sha256sum saved_model.pb variables/* | sha256sum"
    printed = subprocess.check_output(command, shell=True, cwd=tmp_path, text=True)
    digest = model_card.digest(tmp_path)
    assert digest == printed.split()[0]
    shutil.copytree(tmp_path, tmp_path / "moved")
    assert model_card.digest(tmp_path / "moved") == digest, "wherever it lies"
    (tmp_path / data[0]).unlink()
    assert model_card.digest(tmp_path) != digest
    (tmp_path / "saved_model.pb").unlink()
    with pytest.raises(OSError, match=r"saved_model\.pb"):
        model_card.digest(tmp_path)


def test_a_changed_model_is_taken_when_told_so(model, data_dir, capsys):
    # A field that no reader knows: other bytes, the same model.
    with (model / "saved_model.pb").open("ab") as file:
        file.write(b"\x7a\x00")
    assert evaluate(model, data_dir) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert evaluate(model, data_dir, "--allow_changed_model") == 0
    assert "warning" not in capsys.readouterr().err
    assert (model.parent / "scores/report.html").exists()


def test_an_exported_model_is_what_its_card_says(original, capsys):
    digest, card = models.check_files(original)
    assert digest == card.digest
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("card", [None, "{}"])
def test_a_model_without_a_digest_gets_a_warning(card, model, capsys):
    path = model / "assets.extra/model_card.json"
    path.unlink()
    if card:
        path.write_text(card)
    assert models.load_model(model).sha256 == model_card.digest(model), "it can be scored"
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {model}: has no model card with a digest")
    assert "a SavedModel is code" in said and said.count("\n") == 1


def test_a_card_that_is_no_table_gets_one_line(model, loads_nothing):
    for text in ("[1]", "3", "null", '[["name", "x"]]'):
        (model / model_card.CARD).write_text(text)
        with pytest.raises(UserError, match=r"model_card\.json: is not the card of a model that"):
            models.load_model(model, allow_changed_model=True)


@pytest.mark.parametrize("card", [b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_card_gets_one_line(card, model, loads_nothing):
    (model / "assets.extra/model_card.json").write_bytes(card)
    with pytest.raises(UserError, match=r"model_card\.json: is not .* it is not JSON") as caught:
        models.load_model(model, allow_changed_model=True)
    assert "\n" not in str(caught.value)


def test_slices_of_another_preprocessing_are_refused_unless_told_otherwise(model, data_dir, capsys):
    path = model / "assets.extra/model_card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"preprocessing_version": "0.9.0"}))
    assert evaluate(model, data_dir) == 2
    message = capsys.readouterr().err
    assert "preprocessing 0.9.0, and those of ixi_t1/tiny are of 1.0.0" in message
    assert message.count("error: ") == 1 and "--allow_other_preprocessing" in message
    assert not (model.parent / "scores/report.html").exists()
    assert evaluate(model, data_dir, "--allow_other_preprocessing") == 0


SLICES = {"name": "a", "in_plane": None, "size": [8, 8], "window": [1, 4], "scaling": "slice"}
FACTS = {"fingerprint": "abc", "version": "1.0.0", "slices": SLICES, "description": "blobs"}
FIRST = {
    "flags": {"model": "small_resnet", "stage_filters": [8, 16], "profile": None},
    "dataset": FACTS,
    "augmentation": None,
    "best": {"epoch": 2, "val_loss": 0.25},
    "epochs_trained": 3,
    "versions": {"numpy": "1"},
}
SECOND = {name: value for name, value in FIRST.items() if name != "dataset"}
SECOND["datasets"] = {"ixi_t1/a": FACTS}


@pytest.mark.parametrize(("plain", "name"), [(FIRST, "dataset"), (SECOND, "ixi_t1/a")])
def test_cards_of_earlier_versions_are_read(plain, name, tmp_path):
    path = tmp_path / model_card.CARD
    path.parent.mkdir()
    path.write_text(json.dumps(plain))
    slices = config.SliceConfig("a", None, (8, 8), (1, 4))
    facts = DatasetFacts(fingerprint="abc", version="1.0.0", slices=slices, description="blobs")
    assert model_card.read(tmp_path) == ModelCard(
        flags=plain["flags"],
        datasets={name: facts},
        augmentation=None,
        best={"epoch": 2, "val_loss": 0.25},
        epochs_trained=3,
        versions={"numpy": "1"},
    )


def test_a_card_is_written_as_it_is_read(original, tmp_path):
    """Names, values and their order; whole numbers stay whole."""
    card = model_card.read(original)
    model_card.write(tmp_path, card)
    assert (tmp_path / model_card.CARD).read_text() == (original / model_card.CARD).read_text()
    assert model_card.read(tmp_path) == card
    assert model_card.read(tmp_path / "assets.extra") is None
    fields = "name intended_use not_for data_licence size signatures preprocessing_version "
    fields += "data_fingerprint datasets parameters flags augmentation best epochs_trained versions"
    assert list(json.loads((original / model_card.CARD).read_text())) == [*fields.split(), "digest"]


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(data=st.data(), value=json_values | st.just("\ud800"))
def test_any_card_is_read_or_refused_in_one_line(original, tmp_path_factory, data, value):
    """And one that is read can be shown."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "assets.extra").mkdir()
    plain = json.loads((original / model_card.CARD).read_text())
    *parents, last = data.draw(st.sampled_from(list(places(plain))))
    at = plain
    for name in parents:
        at = at[name]
    at[last] = value
    (folder / model_card.CARD).write_text(json.dumps(plain))
    try:
        card = model_card.read(folder)
    except UserError as error:
        assert str(error).startswith(str(folder / model_card.CARD)) and "\n" not in str(error)
        return
    shown = models.Model("m", folder, "", card, None, (None, None))
    published_for(card)
    facts = {"dataset": "d", "dataset_version": "1", "split": "test", "slices": 1, "subjects": 1}
    facts |= {"slice_size": [8, 8], "dataset_fingerprint": "abc"}
    section = sections.origin_section(facts, [shown])
    page.render("t", [], [section]).encode()


def places(plain):
    """The path of every value in nested tables, and of one that is not there."""
    for name, value in plain.items():
        yield (name,)
        if isinstance(value, dict):
            for path in places(value):
                yield (name, *path)
    yield ("another",)


def test_flags_that_are_no_table_get_one_line(model, loads_nothing):
    (model / "assets.extra/model_card.json").write_text('{"flags": [1]}')
    with pytest.raises(UserError, match=r"model_card\.json: .* @ \$\.flags"):
        models.load_model(model)


@pytest.mark.parametrize("graph", [b"", b"\x00" * 64, b"<html>", None])
def test_a_graph_that_is_no_graph_gets_one_line(graph, model):
    """Told to take a changed model, TensorFlow gets to see it."""
    path = model / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1000] if graph is None else graph)
    with pytest.raises(UserError, match=r"cannot be loaded: .|has no signature"):
        models.load_model(model, allow_changed_model=True)


def test_variables_that_are_missing_get_one_line(model):
    (model / "variables/variables.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"cannot be loaded: ."):
        models.load_model(model, allow_changed_model=True)


def test_another_graph_beside_the_checked_one_is_not_loaded(original, model):
    """TensorFlow reads text graphs, too, which the digest does not cover."""
    (model / "saved_model.pbtxt").write_text("nonsense")
    (model / "saved_model.cpb").write_text("nonsense")
    assert models.load_model(model).sha256 == models.load_model(original).sha256
    (model / "saved_model.pb").unlink()
    with pytest.raises(UserError, match=r"no SavedModel|No such file"):
        models.load_model(model)


def test_nothing_is_unpickled_while_a_model_is_scored(model, data_dir, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *args, **kwargs: pytest.fail("was unpickled"))
    assert evaluate(model, data_dir) == 0


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"read_pickle", "eval", "exec", "unsafe_load", "full_load", "load_model"}


def test_no_code_of_ours_can_unpickle_or_evaluate():
    root = pathlib.Path(models.__file__).parent.parent
    seen = 0
    for package in ("ixi_tfds", "beam_preprocess", "trainer", "evaluator"):
        for path in (root / package).rglob("*.py"):
            seen += 1
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {(node.module or "").split(".")[0]}
                else:
                    names = set()
                assert not names & UNPICKLERS, path
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    # models.load_model is our own.
                    last = called.split(".")[-1]
                    own = called in ("load_model", "models.load_model")
                    assert last not in LOADERS or own, (path, called)
                    if called in ("np.load", "numpy.load"):
                        given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                        assert given.get("allow_pickle") == "False", path
    assert seen > 50
