"""What an export holds beside the SavedModel, and whether it is what it says."""

import json
import re
import subprocess

import jinja2
import numpy as np
import pytest
import tensorflow as tf
import untrained
from tensorflow_serving.apis import prediction_log_pb2

from trainer import model_card

EXTRA = "assets.extra"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    return {
        scaling: untrained.export_untrained(root / scaling / "1", scaling=scaling)
        for scaling in ("slice", "volume")
    }


def warmup_requests(folder):
    records = tf.data.TFRecordDataset(str(folder / EXTRA / "tf_serving_warmup_requests"))
    for record in records.as_numpy_iterator():
        # The classes of TensorFlow Serving itself.
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_warmup_requests_run_through_their_signatures(scaling, exported):
    model = tf.saved_model.load(str(exported[scaling]))
    seen = []
    for request in warmup_requests(exported[scaling]):
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        outputs = model.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        assert outputs
        for value in outputs.values():
            assert value.shape == inputs["slices"].shape
            assert np.isfinite(value).all()
        seen.append((name, len(inputs["slices"]), "low" in inputs))
    limits = scaling == "volume"
    assert seen == [("serving_default", batch, False) for batch in (1, 8, 32)] + [
        ("raw", batch, limits) for batch in (1, 8, 32)
    ]
    assert (exported[scaling] / EXTRA / "tf_serving_warmup_requests").stat().st_size < 2000


def test_a_second_export_has_the_same_bytes(exported, tmp_path):
    """In a process that has done other things meanwhile."""
    again = untrained.export_untrained(tmp_path / "1")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 6
    for name in files:
        assert (again / name).read_bytes() == (exported["slice"] / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


def test_anyone_can_compute_the_digest_of_the_card(exported):
    card = json.loads((exported["slice"] / EXTRA / "model_card.json").read_text())
    command = re.search(r"`(sha256sum .*)` prints", page(exported["slice"]))[1]
    done = subprocess.run(
        command, shell=True, cwd=exported["slice"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == card["digest"]
    assert card["digest"] in page(exported["slice"])


def page(folder):
    return (folder / EXTRA / "model_card.md").read_text()


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_card_tells_how_the_signatures_are_called(scaling, exported, monkeypatch):
    card = json.loads((exported[scaling] / EXTRA / "model_card.json").read_text())
    signatures = tf.saved_model.load(str(exported[scaling])).signatures
    assert card["signatures"].keys() == signatures.keys()
    for name, told in card["signatures"].items():
        takes = signatures[name].structured_input_signature[1]
        gives = signatures[name].structured_outputs
        for values, specs in ((told["takes"], takes), (told["gives"], gives)):
            assert values.keys() == specs.keys()
            for value, spec in specs.items():
                shape = ", ".join(map(str, ["B", *spec.shape[1:]]))
                assert values[value].startswith(f"{spec.dtype.name} [{shape}]")
                assert f"| `{value}` | {values[value]} |" in page(exported[scaling])
    (block,) = re.findall(r"```python\n(.*?)```", page(exported[scaling]), re.DOTALL)
    monkeypatch.chdir(exported[scaling])
    names = {}
    exec(block.replace("\nunit[", "\nresult = unit["), names)
    assert [value.shape[0] for value in names["result"]] == [1, 1, 1]


def test_the_page_says_what_the_card_says(exported):
    card = json.loads((exported["slice"] / EXTRA / "model_card.json").read_text())
    for told in ("intended_use", "not_for", "data_licence"):
        assert card[told] in page(exported["slice"])
    assert "not a medical device" in card["not_for"]
    for row in ("| train | 6 | 24 |", "| psnr | 20 |", "2,263,232 parameters", "`64,128,256`"):
        assert row in page(exported["slice"])
    # The folders of the run are nobody's business.
    assert not {"data_dir", "workdir"} & card["flags"].keys()


def test_a_card_that_lacks_something_gives_no_page_with_gaps():
    with pytest.raises(jinja2.UndefinedError, match="intended_use"):
        model_card.markdown({"name": "x", "versions": {"ixi-autoencoders": "1"}})
