"""Folders that are not of this machine: the same commands, the same bytes, nothing half done.

`ram://` is TensorFlow's own file system in memory; `gs://` is TensorFlow's client of Google's
object store, which here asks a store on this machine.
"""

import gc
import hashlib
import json
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import sys
from unittest import mock

import forked
import pytest
import tensorflow as tf
import tiny_dataset
from fake_cloud import BUCKET, cloud
from volumes import SMALL, write_cohort

from beam_preprocess import shards
from beam_preprocess.__main__ import run as preprocess
from evaluator.__main__ import run as evaluate
from ixi_tfds.__main__ import run as ixi_tfds
from ixi_tfds.system import folders, storage
from ixi_tfds.system.errors import UserError
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


def names(folder):
    """What is in a folder of this machine."""
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.lanes
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
    assert "resuming after epoch 1 of 2" in log.read_text()
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
    # A record has a length, 4 bytes that check it, the data, and 4 bytes that check those.
    starts = [0]
    while starts[-1] < len(damaged):
        (length,) = struct.unpack_from("<Q", damaged, starts[-1])
        starts.append(starts[-1] + length + 16)
    damaged[starts[3] + 200] ^= 4
    store.write(shard, bytes(damaged))
    log, where = tmp_path / "log", f"--data_dir=gs://{BUCKET}/data"
    assert go(store, log, ["verify", where]) == 2
    said = f"gs://{BUCKET}/{shard}: is damaged: record 4 (from byte {starts[3]}) is damaged"
    assert said in log.read_text()
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
    killed = 0
    for flags in (other, job("--overwrite")) * (len(kills) // 2):
        number = kills.pop()
        store.requests.clear()
        process = start(store, log, [*flags, "--overwrite"])

        def kill(request, process=process, number=number):
            seen.append(is_whole_or_not_there(store))
            if len(store.requests) >= number:
                process.kill()

        store.before = kill
        # Where shards hold more volumes, a job has fewer requests, and may end before.
        killed += forked.finish(process) == [-9]
        store.before = lambda request: seen.append(is_whole_or_not_there(store))
        assert go(store, log, [*flags, "--overwrite"]) == 0, log.read_text()
        assert found(store) == (first if flags is other else expected), number
        assert not [name for name in store.names("data/") if not name.startswith(RESULT)]
    assert len(seen) > 8 * total and all(seen)
    assert not kills and killed >= 4


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
    assert f"HTTP response code {status}" in last
    assert "Traceback" not in log.read_text()
    assert found(store) == {}
    store.before = lambda request: None
    assert go(store, log, job()) == 0, log.read_text()
    assert found(store) == expected


def test_a_bucket_that_cannot_be_reached_is_one_line(tmp_path):
    # Nobody listens there, and nobody else can.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        check_that_a_bucket_cannot_be_reached(tmp_path, taken.getsockname()[1])


def check_that_a_bucket_cannot_be_reached(tmp_path, port):
    proxy = f"http://127.0.0.1:{port}"
    nowhere = {"https_proxy": proxy, "no_proxy": "", "NO_PROXY": "", "NO_GCE_CHECK": "true"}
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
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "run, argv",
    [
        (preprocess, ["--source_dir=zz://a", "--data_dir=D", *SMALL]),
        # A source that is not there, nor are the datasets and the model below: unread, unmissed.
        (preprocess, ["--source_dir=S", "--data_dir=zz://a", *SMALL]),
        (preprocess, ["verify", "--data_dir=zz://a"]),
        (train, ["--data_dir=zz://a", "--workdir=W"]),
        (evaluate, ["--data_dir=zz://a", "--saved_model=M", "--output_dir=O"]),
    ],
)
def test_a_scheme_that_tensorflow_does_not_know_is_refused(
    run, argv, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "zz://: TensorFlow has no file system for it, only for gs://" in line
    assert not names(tmp_path)


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
def test_commands_that_need_a_disk_say_so(run, argv, capsys, tmp_path, monkeypatch):
    """Before they miss the data and the models, which are not there."""
    monkeypatch.chdir(tmp_path)
    assert run(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (flag,) = [argument for argument in argv if argument.endswith("=gs://a")]
    assert line.startswith(f"error: {flag}: give a folder on a local or mounted disk")
    assert not names(tmp_path)


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
            assert raw.seek(-4, os.SEEK_END) == 8 and raw.read() == b"ber\n"
            assert raw.tell() == 12
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
        # What has the name already goes.
        (folder / "e.bin").write_bytes(b"longer than the other")
        (folder / "a" / "d.bin").replace(folder / "e.bin")
        assert (folder / "e.bin").read_bytes() == b"123"
        storage.copy(folder / "e.bin", folder / "a" / "d.bin")
        assert (folder / "a" / "d.bin").read_bytes() == b"123" == (folder / "e.bin").read_bytes()
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


def test_files_larger_than_any_buffer_come_back_whole(box):
    data = random.Random(0).randbytes(300_001)
    with (box / "large").open("wb") as raw:
        for start in range(0, len(data), 777):
            raw.write(data[start : start + 777])
    assert (box / "large").read_bytes() == data and (box / "large").stat().st_size == len(data)
    (box / "again").write_bytes(data)
    with (box / "again").open("rb") as raw:
        assert b"".join(iter(lambda: raw.read(70_001), b"")) == data


def test_a_folder_of_more_files_than_a_store_lists_at_once_is_listed_whole(box):
    """Google's store lists a thousand at a time."""
    wanted = [f"{number:05d}" for number in range(1003)]
    for name in wanted:
        (box / "a" / name).write_bytes(b"")
    assert [path.name for path in (box / "a").iterdir()] == wanted
    assert [path.name for path in box.glob("a/*")] == wanted
    assert [names for _, _, names in storage.walk(box)] == [[], wanted]


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.exists(),
        lambda path: path.is_dir(),
        lambda path: path.is_file(),
        lambda path: path.stat(),
        lambda path: path.open("rb"),
        lambda path: path.open("w"),
        lambda path: path.read_bytes(),
        lambda path: path.write_text("a"),
        lambda path: list(path.iterdir()),
        lambda path: list(path.glob("*")),
        lambda path: path.mkdir(exist_ok=True),
        lambda path: path.unlink(missing_ok=True),
        lambda path: path.rename(path / "b"),
        lambda path: list(storage.walk(path, onerror=print)),
        lambda path: storage.remove_tree(path),
        lambda path: storage.copy(path / "b", path),
        lambda path: folders.is_whole(path.parent, path.name),
    ],
)
def test_a_store_that_cannot_be_reached_is_never_taken_for_an_empty_one(touch, monkeypatch):
    class Unreachable:
        def __getattr__(self, name):
            return self

        def __call__(self, *args, **kwargs):
            raise tf.errors.UnavailableError(None, None, "no route to host")

    path = storage.at("ram://box/a")
    monkeypatch.setattr(storage, "_gfile", Unreachable)
    with pytest.raises(
        UserError, match=r"^ram://box/a: the storage refuses or cannot be reached \(no route"
    ):
        touch(path)


def test_only_what_begins_with_a_scheme_is_remote(tmp_path):
    assert storage.is_remote("gs://bucket") and storage.is_remote(storage.at("ram://box"))
    for here in ("bucket", "a/gs://bucket", "gs:/bucket", "://bucket", tmp_path):
        assert not storage.is_remote(here)
    assert storage.at(str(tmp_path), "a", "b") == tmp_path / "a/b"


def test_synchronised_bytes_are_those_that_were_written(tmp_path, monkeypatch):
    """Not what was in the file before the buffer was emptied into it."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((tmp_path / "a").read_bytes()))
    with (tmp_path / "a").open("wb") as file:
        file.write(b"1234")
        storage.synchronise(file)
        assert seen == [b"1234"]


def test_a_shard_has_its_name_only_when_it_is_on_the_disk(tmp_path, monkeypatch):
    """Its bytes are synchronised, under a name of no meaning, and nothing but the shard is left."""
    done, replace = [], pathlib.Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(names(tmp_path)))

    def note(path, target):
        done.append((path.read_bytes(), target.name))
        return replace(path, target)

    monkeypatch.setattr("pathlib.Path.replace", note)
    digest = hashlib.sha256(b"1234").hexdigest()
    assert shards._write_whole(tmp_path / "shard", [b"12", b"34"]) == (digest, 4)
    assert done == [[mock.ANY], (b"1234", "shard")] and "shard" not in done[0]
    assert re.fullmatch(r"\.partial-[0-9a-f]{32}-shard", done[0][0])
    assert names(tmp_path) == ["shard"]


def test_what_a_link_in_a_folder_points_to_stays_when_the_folder_goes(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("kept")
    (tmp_path / "gone/deeper").mkdir(parents=True)
    for name in ("gone/link", "gone/deeper/link"):
        (tmp_path / name).symlink_to(tmp_path / "kept")
    (tmp_path / "gone/deeper/file").symlink_to(tmp_path / "kept/file")
    storage.remove_tree(tmp_path / "gone")
    storage.remove_tree(tmp_path / "gone")
    assert tree(tmp_path) == {"kept/file": b"kept"} and names(tmp_path) == ["kept"]


def texts(folder):
    """The files in a folder of either kind, by path within it."""
    files = [storage.at(top, name) for top, _, names in storage.walk(folder) for name in names]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.mark.parametrize("on_disk", [True, False])
def test_putting_in_place_where_nothing_can_be_renamed(on_disk, box, tmp_path, monkeypatch):
    """At each step a reader finds all of a dataset or no marker, and what stood there is gone."""
    place, seen = box / "place", []
    gfile = tf.io.gfile

    class Spy:
        def __getattr__(self, name):
            if name in ("remove", "rmtree", "rename", "copy"):
                seen.append(texts(place) if gfile.exists(str(place)) else {})
            return getattr(gfile, name)

    wholes = []
    for number, files in enumerate((("before", "marker", "z"), ("new", "sub/new", "marker", "z"))):
        made = (tmp_path if on_disk else box) / f"made{number}"
        for name in files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(f"{number}")
        assert folders.is_whole(place, "marker") == (number == 1)
        wholes.append(dict.fromkeys(files, f"{number}"))
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_gfile", Spy)
            folders.put_in_place(made, place, "marker")
        assert not made.exists()
        assert texts(place) == wholes[-1]
    assert folders.is_whole(place, "marker")
    with_marker = [state for state in seen if "marker" in state]
    assert wholes[0] in with_marker and all(state in wholes for state in with_marker)
    halves = [state for state in seen if state and "marker" not in state]
    assert {"new": "1", "sub/new": "1", "z": "1"} in halves
    # What a kill leaves half done is not taken for a dataset.
    (place / "marker").unlink()
    assert place.exists() and not folders.is_whole(place, "marker")


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


def test_a_file_that_cannot_be_opened_is_one_error_and_no_other_word(box, monkeypatch):
    """Python 3.13 shows errors in the end of a stream that was never open."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(tf.io.gfile, "GFile", mock.Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        (box / "file").open("rb")
    gc.collect()
    assert said == []
