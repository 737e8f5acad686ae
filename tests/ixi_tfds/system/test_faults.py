"""What the operating system refuses: one line with the path, nothing published, and on it goes.

The faults are real: limits of the kernel in a process of its own, and small or read-only file
systems where this user may mount them.
"""

import contextlib
import errno
import functools
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess

import forked
import pytest
import tiny_dataset
import untrained
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort

from ixi_tfds.system import files, folders
from ixi_tfds.system.errors import UserError

KIB = 1024


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    write_cohort(root / "source")
    tiny_dataset.write_tiny_dataset(root / "data")
    untrained.export_untrained(root / "small_resnet/1")
    return root


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB (0: read-only) and gives its folder."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = f"size={size}k" if size else "ro"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(mount).returncode:
            pytest.skip(
                "this user may not mount a file system: what a command says of a "
                + ("full disk was" if size else "read-only folder was")
                + " not tested"
            )
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def limit(which, value):
    resource.setrlimit(which, (value, value))


no_long_files = functools.partial(limit, resource.RLIMIT_FSIZE)


def one_more_file():
    """Allow to open one file at a time besides those that are open: the lock takes that."""
    # Among these is the one by which they are listed.
    taken = {int(path.name) for path in pathlib.Path("/proc/self/fd").iterdir()}
    limit(resource.RLIMIT_NOFILE, next(n for n in itertools.count() if n not in taken))


def start(module, flags, given, out, log, *before):
    argv = [flag.format(given=given, out=out) for flag in flags]
    return forked.finish(forked.start(argv, log, *before, module=module))


PREPROCESS = ("beam_preprocess", ["--source_dir={given}/source", "--data_dir={out}", *SMALL])
TRAIN = (
    "trainer",
    [
        *("--data_dir={given}/data", "--dataset=ixi_t1/tiny", "--workdir={out}"),
        *("--batch_size=4", "--epochs=1", "--model=resnet_like", "--stem_filters=8"),
        *("--stage_filters=16", "--stage_blocks=1", "--jit_compile=off"),
    ],
)
EVALUATE = (
    "evaluator",
    [
        *("--saved_model={given}/small_resnet", "--data_dir={given}/data"),
        *("--dataset=ixi_t1/tiny", "--output_dir={out}"),
    ],
)
COHORT = ("ixi_tfds", ["cohort", "--output_dir={out}", "--subjects=1"])


def last_line(log):
    """The error, which is the last line and the only one of its kind; there is no traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text
    assert text.count("error: ") == 1
    return text.splitlines()[-1]


def results(command, out):
    """What a reader would take for a result."""
    found = {
        "beam_preprocess": "ixi_t1/small/1.0.0",
        "trainer": "export/*/1",
        "evaluator": "*.*",
    }[command[0]]
    return [path for path in out.glob(found) if path.name[0] != "."]


@pytest.mark.parametrize(("command", "size"), [(PREPROCESS, 8), (TRAIN, 8), (EVALUATE, 2)])
def test_a_file_that_cannot_grow(command, size, given, tmp_path):
    """As on a full disk: the kernel refuses to make any file longer than this."""
    out, log = tmp_path / "out", tmp_path / "log.txt"
    assert start(*command, given, out, log, functools.partial(no_long_files, size * KIB)) == [2]
    line = last_line(log)
    assert os.strerror(errno.EFBIG) in line and str(out) in line and "make room" in line
    assert not results(command, out)
    assert start(*command, given, out, tmp_path / "again.txt") == [0]
    assert results(command, out)
    assert not [
        p
        for p in out.rglob("*")
        if p.suffix == ".partial" or p.name[:9] == ".partial-" or p.name == ".lock"
    ]


@pytest.mark.parametrize(("command", "size"), [(PREPROCESS, 60), (TRAIN, 200), (EVALUATE, 100)])
def test_a_full_disk(command, size, given, tmp_path, small_disk):
    disk, log = small_disk(size), tmp_path / "log.txt"
    assert start(*command, given, disk, log) == [2]
    line = last_line(log)
    assert os.strerror(errno.ENOSPC) in line and str(disk) in line and "make room" in line
    assert not results(command, disk)
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    assert start(*command, given, disk, tmp_path / "again.txt") == [0]
    assert results(command, disk)


@pytest.mark.parametrize("command", [PREPROCESS, TRAIN, EVALUATE, COHORT])
def test_a_read_only_folder(command, given, tmp_path, small_disk):
    disk, log = small_disk(0), tmp_path / "log.txt"
    assert start(*command, given, disk, log) == [2]
    line = last_line(log)
    assert os.strerror(errno.EROFS) in line and str(disk) in line and "writable" in line


def test_too_few_open_files(given, tmp_path):
    """No scan is refused for it: with a good limit the dataset has everyone."""
    out, log = tmp_path / "out", tmp_path / "log.txt"
    assert start(*PREPROCESS, given, out, log, one_more_file) == [2]
    assert "ulimit -n" in last_line(log)
    assert not results(PREPROCESS, out)
    assert start(*PREPROCESS, given, out, tmp_path / "again.txt") == [0]
    manifest = json.loads((out / "ixi_t1/small/1.0.0/manifest.json").read_text())
    assert len(manifest["volumes"]) == 12 and not manifest["rejected"]


def cannot_read(path, code):
    """Have the system refuse to read one file, in the process of a job."""
    read_bytes = pathlib.Path.read_bytes

    def read(file):
        if file == path:
            raise OSError(code, os.strerror(code), str(file))
        return read_bytes(file)

    pathlib.Path.read_bytes = read


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_a_fault_in_reading_is_no_fault_of_the_scan(code, given, tmp_path):
    """Else one bad moment would leave people out of the dataset, unnoticed among the refused."""
    path, out, log = sorted((given / "source").iterdir())[4], tmp_path / "out", tmp_path / "log.txt"
    module, flags = PREPROCESS
    lenient = module, [*flags, "--max_rejected_fraction=1"]
    assert start(*lenient, given, out, log, functools.partial(cannot_read, path, code)) == [2]
    assert last_line(log).startswith(f"error: {path}: {os.strerror(code)}; ")
    assert not results(PREPROCESS, out)
    assert start(*lenient, given, out, tmp_path / "again.txt") == [0]
    manifest = json.loads((out / "ixi_t1/small/1.0.0/manifest.json").read_text())
    assert len(manifest["volumes"]) == 12 and not manifest["rejected"]


def lose_a_scan(path):
    """Remove a file once the job has been planned."""
    from beam_preprocess import plan

    plan_job = plan.plan_job

    def lose(*args, **kwargs):
        planned = plan_job(*args, **kwargs)
        path.unlink()
        return planned

    plan.plan_job = lose


def test_a_scan_that_vanishes_stops_the_job(given, tmp_path):
    source = shutil.copytree(given / "source", tmp_path / "source")
    path = sorted(source.glob("*.nii.gz"))[0]
    content, out = path.read_bytes(), tmp_path / "out"
    lose = functools.partial(lose_a_scan, path)
    assert start(*PREPROCESS, tmp_path, out, tmp_path / "log.txt", lose) == [2]
    line = last_line(tmp_path / "log.txt")
    assert f"{path}: {os.strerror(errno.ENOENT)}" in line
    assert not results(PREPROCESS, out)
    path.write_bytes(content)
    assert start(*PREPROCESS, tmp_path, out, tmp_path / "again.txt") == [0]
    assert start(*PREPROCESS, given, tmp_path / "alone", tmp_path / "alone.txt") == [0]
    assert tree(out) == tree(tmp_path / "alone")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # As TensorFlow and Beam pass them on.
        (
            "{{node Save}} /w/checkpoints/x; No space left on device [Op:Save]",
            "/w/checkpoints/x: No",
        ),
        ("Traceback\nOSError: [Errno 28] No space left on device: '/w/a b'\n", "/w/a b: No space"),
        ("OSError: [Errno 23] Too many open files in system: '/w/a'", "/w/a: .* in system; allow"),
        # No file is named, or the folder itself.
        ("[Errno 28] No space left on device", "--workdir=/w: No space"),
        ("OSError: [Errno 30] Read-only file system: '/w'", "--workdir=/w: Read-only"),
        ("shape (3,) and (4,)", None),
    ],
)
def test_the_words_of_the_system_are_known_in_the_errors_of_libraries(text, said):
    with contextlib.ExitStack() as stack:
        if said:
            stack.enter_context(pytest.raises(UserError, match=f"^{said}"))
        else:
            stack.enter_context(pytest.raises(RuntimeError, match="shape"))
        with folders.os_errors_as_user_errors("/w", "workdir"):
            raise RuntimeError(text)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EFBIG, "make room"),
        (errno.EROFS, "make it writable and readable"),
        (errno.EACCES, "make it writable and readable"),
        (errno.EPERM, "make it writable and readable"),
        (errno.EEXIST, "give the path of a folder"),
        (errno.ENOTDIR, "give the path of a folder"),
        (errno.EMFILE, "allow more open files"),
        (errno.ENFILE, "allow more open files"),
        (errno.ENOENT, "bring it back"),
        (errno.EIO, "see whether the disk"),
    ],
)
@pytest.mark.parametrize("file", ["/w/a", "/w", None])
def test_an_error_of_the_system_names_its_file_and_what_to_do(code, advice, file):
    place = "/w/a" if file == "/w/a" else "--workdir=/w"
    with (
        pytest.raises(UserError, match=f"^{place}: {os.strerror(code)}; {advice}"),
        folders.os_errors_as_user_errors("/w", "workdir"),
    ):
        raise OSError(code, os.strerror(code), file)


def test_errors_that_nobody_can_do_anything_about_keep_their_traceback():
    for error in (
        ConnectionResetError(errno.ECONNRESET, "No space left on device", "/w"),
        OSError("no number"),
    ):
        with pytest.raises(OSError) as caught, folders.os_errors_as_user_errors("/w", "workdir"):
            raise error
        assert caught.value is error
    said = UserError("--strict: /w/a; No space left on device")
    with pytest.raises(UserError) as caught, folders.os_errors_as_user_errors("/w", "workdir"):
        raise said
    assert caught.value is said


def test_a_file_that_is_written_is_named_unless_the_system_names_one(tmp_path):
    for given_name, named in ((None, str(tmp_path / "a")), ("/elsewhere", "/elsewhere")):
        with pytest.raises(OSError) as caught, files.with_path(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "full", given_name)
        assert caught.value.filename == named


def test_an_error_of_a_store_is_told_from_one_of_a_computation():
    import tensorflow as tf

    refused = tf.errors.PermissionDeniedError(None, None, "code 403 when reading gs://b/run/x")
    wrong = tf.errors.InvalidArgumentError(None, None, "shapes (3,) and (4,)")
    with (
        pytest.raises(UserError, match=r"^gs://b/run: the storage refuses .*code 403"),
        folders.os_errors_as_user_errors("gs://b/run", "workdir"),
    ):
        raise refused
    for folder, error in (("gs://b/run", wrong), ("/w", refused)):
        with (
            pytest.raises(tf.errors.OpError) as caught,
            folders.os_errors_as_user_errors(folder, "workdir"),
        ):
            raise error
        assert caught.value is error
