"""Folders that are not of this machine: the same commands, the same bytes, nothing half done.

`ram://` is TensorFlow's own file system in memory; `gs://` is TensorFlow's client of Google's
object store, which here asks a store on this machine.
"""

import hashlib
import json
import os
import random
import re
import subprocess
import sys

import forked
import pytest
import tiny_dataset
from fake_cloud import BUCKET, cloud
from volumes import SMALL, write_cohort

from beam_preprocess.__main__ import run as preprocess
from evaluator.__main__ import run as evaluate
from ixi_tfds import folders, storage
from ixi_tfds.__main__ import run as ixi_tfds
from trainer.__main__ import run as train
from trainer.thesis import run as thesis
from trainer.tune import run as tune

RESULT = "data/ixi_t1/small/1.0.0"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "certificate").mkdir()
    with cloud(tmp_path / "certificate") as made:
        yield made


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("scans"), subjects=6)


def tree(folder):
    """The bytes of all files in a folder of this machine, by path within it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def upload(store, folder, prefix):
    for name, data in tree(folder).items():
        store.write(f"{prefix}/{name}", data)


def start(store, log, argv, module="beam_preprocess"):
    return forked.start(argv, log, environment=store.environment, module=module)


def go(store, log, argv, module="beam_preprocess"):
    (code,) = forked.finish(start(store, log, argv, module))
    return code


def job(*flags):
    root = f"gs://{BUCKET}"
    where = (f"--source_dir={root}/scans", f"--data_dir={root}/data")
    return [*where, *SMALL, "--volumes_per_shard=2", *flags]


@pytest.fixture(scope="module")
def expected(scans, tmp_path_factory):
    """What the job makes of these scans on this machine, by name."""
    root = tmp_path_factory.mktemp("expected")
    flags = (f"--source_dir={scans}", f"--data_dir={root / 'data'}", "--volumes_per_shard=2")
    assert preprocess([*flags, *SMALL]) == 0
    return tree(root / RESULT)


def found(store):
    """What stands in the store where the dataset belongs, by name."""
    names = store.names(f"{RESULT}/")
    return {name.removeprefix(f"{RESULT}/"): store.read(name) for name in names}


@pytest.mark.slow
def test_from_scans_to_scores_in_a_bucket(store, scans, expected, tmp_path):
    upload(store, scans, "scans")
    log, root = tmp_path / "log", f"gs://{BUCKET}"
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert go(store, log, job(*workers)) == 0, log.read_text()
    assert found(store) == expected
    assert not [name for name in store.names("data/") if not name.startswith(RESULT)]
    assert go(store, log, job()) == 0
    assert "nothing to do" in log.read_text()

    data = [f"--data_dir={root}/data", "--dataset=ixi_t1/small"]
    run = [*data, f"--workdir={root}/run", "--batch_size=8"]
    assert go(store, log, [*run, "--epochs=1"], "trainer") == 0, log.read_text()
    assert go(store, log, [*run, "--epochs=2"], "trainer") == 0, log.read_text()
    assert "going on after epoch 1 of 2" in log.read_text()
    kept = {name: store.read(f"run/{name}") for name in ("history.csv", "state.json")}
    # What it comes to on this machine, in one go.
    here = tmp_path / "here"
    for name, content in expected.items():
        path = here / RESULT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    local = [f"--data_dir={here}/data", data[1], f"--workdir={here}/run", "--batch_size=8"]
    assert go(store, log, [*local, "--epochs=2"], "trainer") == 0, log.read_text()
    assert {name: (here / "run" / name).read_bytes() for name in kept} == kept
    exported = {n.removeprefix("run/"): store.read(n) for n in store.names("run/export/")}
    assert exported == {f"export/{n}": b for n, b in tree(here / "run/export").items()}

    model = f"--saved_model={root}/run/export/small_resnet"
    scoring = [model, *data, "--split=test", f"--output_dir={root}/report"]
    assert go(store, log, scoring, "evaluator") == 0, log.read_text()
    assert store.names("report/") == [
        *(f"report/{name}" for name in ("report.html", "scores.csv", "summary.json"))
    ]
    assert b"PSNR" in store.read("report/report.html")
    assert b"Traceback" not in log.read_bytes()


@pytest.mark.slow
def test_damage_in_a_bucket_is_named_and_mended(store, scans, expected, tmp_path):
    upload(store, scans, "scans")
    for name, content in expected.items():
        store.write(f"{RESULT}/{name}", content)
    shard = next(name for name in store.names(RESULT) if "-train.tfrecord" in name)
    damaged = bytearray(store.read(shard))
    damaged[200] ^= 4
    store.write(shard, bytes(damaged))
    log, where = tmp_path / "log", f"--data_dir=gs://{BUCKET}/data"
    assert go(store, log, ["verify", where]) == 2
    assert (
        f"gs://{BUCKET}/{shard}: is damaged: record 1 (from byte 0) is damaged" in log.read_text()
    )
    assert go(store, log, ["verify", where, "--repair", f"--source_dir=gs://{BUCKET}/scans"]) == 0
    assert found(store) == expected


def is_whole_or_not_there(store):
    """Whether a reader who looks now sees no dataset, or all of it."""
    there = found(store)
    if "dataset_info.json" not in there:
        return True
    manifest = json.loads(there["manifest.json"])
    return all(
        hashlib.sha256(there[name]).hexdigest() == digest
        for name, digest in (manifest["shards"] | manifest["metadata"]).items()
    )


@pytest.mark.slow
def test_a_job_killed_at_any_request_leaves_nothing_half_done(store, scans, expected, tmp_path):
    """Replacing a dataset, so that both the old one's going and the new one's coming are seen."""
    upload(store, scans, "scans")
    log, seen = tmp_path / "log", []
    store.before = lambda request: seen.append(is_whole_or_not_there(store))
    other = [*job("--overwrite")[:2], *SMALL, "--volumes_per_shard=3"]
    assert go(store, log, other) == 0, log.read_text()
    first = found(store)
    assert first != expected
    store.requests.clear()
    assert go(store, log, job("--overwrite")) == 0, log.read_text()
    assert found(store) == expected
    total = len(store.requests)
    moves = [place for place, request in enumerate(store.requests) if RESULT in _target(request)]
    publishing = moves[0]
    moments = random.Random(0)
    kills = [*moments.sample(range(total), 3), *moments.sample(range(publishing - 8, total), 5)]
    for flags in (other, job("--overwrite")) * (len(kills) // 2):
        number = kills.pop()
        store.requests.clear()
        process = start(store, log, [*flags, "--overwrite"])

        def kill(request, process=process, number=number):
            seen.append(is_whole_or_not_there(store))
            if len(store.requests) >= number:
                process.kill()

        store.before = kill
        forked.finish(process)
        store.before = lambda request: seen.append(is_whole_or_not_there(store))
        assert go(store, log, [*flags, "--overwrite"]) == 0, log.read_text()
        assert found(store) == (first if flags is other else expected), number
        assert not [name for name in store.names("data/") if not name.startswith(RESULT)]
    assert len(seen) > 8 * total and all(seen)


def _target(request):
    """Where a request to copy an object copies it to."""
    return request.partition("rewriteTo")[2].replace("%2F", "/")


@pytest.mark.slow
@pytest.mark.parametrize(
    "status, mode", [(401, "in_memory"), (403, "in_memory"), (403, "multi_processing")]
)
def test_a_store_that_refuses_is_one_line_and_a_second_run_goes_on(
    store, scans, expected, tmp_path, status, mode
):
    upload(store, scans, "scans")
    log = tmp_path / "log"
    writes = []

    def refuse(request):
        writes.extend([request] * request.startswith(("POST", "PUT")))
        return status if len(writes) > 12 else None

    store.before = refuse
    assert go(store, log, job(f"--direct_running_mode={mode}")) == 2
    (last,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: gs://{BUCKET}/data/\S+: the storage refuses", last)
    assert "Traceback" not in log.read_text()
    assert found(store) == {}
    store.before = lambda request: None
    assert go(store, log, job()) == 0, log.read_text()
    assert found(store) == expected


def test_a_bucket_that_cannot_be_reached_is_one_line(tmp_path):
    nowhere = {"https_proxy": "http://127.0.0.1:9", "NO_GCE_CHECK": "true"}
    # TensorFlow reads it when it is imported; without, it goes on trying for three minutes.
    retries = {"GCS_RETRY_CONFIG_MAX_RETRIES": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    flags = ["--source_dir=gs://none/scans", f"--data_dir={tmp_path}", *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "beam_preprocess", *flags],
        env=os.environ | nowhere | retries,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert line.startswith("error: gs://none/scans: the storage refuses or cannot be reached")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "run, argv",
    [
        (preprocess, ["--source_dir=zz://a", "--data_dir=D", *SMALL]),
        (preprocess, ["--source_dir=.", "--data_dir=zz://a", *SMALL]),
        (preprocess, ["verify", "--data_dir=zz://a"]),
        (train, ["--data_dir=zz://a", "--workdir=W"]),
        (evaluate, ["--data_dir=zz://a", "--saved_model=M", "--output_dir=O"]),
    ],
)
def test_a_scheme_that_tensorflow_does_not_know_is_refused(run, argv, capsys):
    assert run(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "zz://: TensorFlow has no file system for it, only for gs://" in line


@pytest.mark.parametrize(
    "run, argv",
    [
        (ixi_tfds, ["cohort", "--output_dir=gs://a"]),
        (ixi_tfds, ["download", "--output_dir=gs://a"]),
        (tune, ["--data_dir=D", "--tuning_dir=gs://a"]),
        (thesis, ["--data_dir=D", "--workdir=gs://a"]),
        (evaluate, ["reconstruct", "--saved_model=M", "--input=I", "--output_dir=gs://a"]),
    ],
)
def test_commands_that_need_a_disk_say_so(run, argv, capsys):
    assert run(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "=gs://a: give a folder on a local or mounted disk" in line


@pytest.fixture
def box():
    folder = storage.at("ram://box")
    (folder / "a").mkdir(parents=True, exist_ok=True)
    yield folder
    storage.remove_tree(folder)


def test_a_remote_path_does_what_pathlibs_does(box, tmp_path):
    for folder in (box, tmp_path):
        file = folder / "a" / "b.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists() and not file.is_file()
        file.write_text("grün\nüber\n", encoding="utf-8")
        assert file.is_file() and not file.is_dir() and file.parent.is_dir()
        assert file.stat().st_size == len(file.read_bytes()) == 12
        with file.open(encoding="utf-8", newline="") as lines:
            assert list(lines) == ["grün\n", "über\n"]
        with file.open("rb") as raw:
            assert (
                hashlib.file_digest(raw, "md5").digest() == hashlib.md5(file.read_bytes()).digest()
            )
            assert raw.seek(2) == 2 and raw.read(3) == "ün".encode()
        with (folder / "c.bin").open("wb") as raw:
            raw.write(b"12")
            storage.synchronise(raw)
            raw.write(b"3")
        assert (folder / "c.bin").read_bytes() == b"123"
        assert [path.name for path in sorted(folder.glob("*/*.t?t"))] == ["b.txt"]
        assert list(folder.glob("none/*")) == []
        assert sorted(path.name for path in folder.iterdir()) == ["a", "c.bin"]
        assert [(top.rpartition("/")[2], *rest) for top, *rest in storage.walk(folder)] == [
            (folder.name, ["a"], ["c.bin"]),
            ("a", [], ["b.txt"]),
        ]
        file.replace(file)
        assert file.read_bytes().startswith(b"gr")
        (folder / "c.bin").rename(folder / "a" / "d.bin")
        assert not (folder / "c.bin").exists()
        assert (folder / "a" / "d.bin").read_bytes() == b"123"
        assert str((folder / "a" / "d.bin").relative_to(folder)) == "a/d.bin"
        (folder / "a" / "d.bin").unlink()
        (folder / "a" / "d.bin").unlink(missing_ok=True)
        missing = folder / "a" / "d.bin"
        for touch in (missing.read_bytes, missing.unlink, missing.stat, missing.open):
            with pytest.raises(FileNotFoundError) as caught:
                touch()
            assert caught.value.filename == str(missing)
        with pytest.raises(FileExistsError):
            (folder / "a").mkdir()
    assert str(box / "a") == "ram://box/a" == str(storage.at(str(box), "a"))


def test_putting_in_place_where_nothing_can_be_renamed(box, tmp_path):
    """The marker goes first and comes last, and what stood there is gone."""
    for number, names in enumerate((("old", "marker"), ("new", "sub/new", "marker"))):
        made = tmp_path / f"made{number}"
        for name in names:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(f"{number}")
        assert folders.is_whole(box / "place", "marker") == (number == 1)
        folders.put_in_place(made, box / "place", "marker")
        assert not made.exists()
    there = [f"{top}/{name}" for top, _, names in storage.walk(box / "place") for name in names]
    assert sorted(there) == [f"ram://box/place/{name}" for name in ("marker", "new", "sub/new")]
    assert folders.is_whole(box / "place", "marker")


def test_tfds_opens_what_stands_in_any_file_system(box, tmp_path):
    import tensorflow_datasets as tfds

    folder = tiny_dataset.write_tiny_dataset(tmp_path)
    for path in folder.iterdir():
        (box / "tiny").mkdir(exist_ok=True)
        storage.copy(path, box / "tiny" / path.name)
    builder = tfds.builder_from_directory(str(box / "tiny"))
    here = tfds.builder_from_directory(str(folder))
    keys = [
        [example["slice_index"].numpy() for example in made.as_dataset(split="train")]
        for made in (builder, here)
    ]
    assert keys[0] == keys[1] and len(keys[0]) == 24
