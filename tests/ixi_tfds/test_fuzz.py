"""Damaged scans: slices or one typed error, whatever is in the file, within bounds.

SOAK_EXAMPLES sets how many files each property tries; more than the default are drawn at random.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import fuzzed_scans
import nibabel as nib
import numpy as np
import pytest
import test_formats
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "0"))
fuzz = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
)
SEED = fuzzed_scans.seed_file()
NIFTI2 = nib.Nifti2Image.from_image(nib.Nifti1Image.from_bytes(SEED)).to_bytes()
HEADERS = {
    "little": nib.Nifti1Image.from_bytes(SEED).header,
    "big": nib.Nifti1Image.from_bytes(SEED).header.as_byteswapped(">"),
    "second": nib.Nifti2Image.from_bytes(NIFTI2).header,
}
FIELDS = (
    *("dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "magic"),
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "qoffset_x", "srow_x", "srow_y"),
    *("srow_z", "xyzt_units", "sizeof_hdr"),
)

REASONS_OF_VALUES = {
    *("slices", "constant", "non_finite", "near_empty", "label_map", "other_modality"),
}

numbers = st.one_of(
    st.sampled_from([0, 1, 2, -1, 127, 255, 27307, 32767, -32768, 2**31 - 1, 2**62]),
    st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, 1e-45, 1e308, 0.5, 352.0, 1e9]),
    st.integers(-(2**15), 2**15),
    st.floats(),
)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)


def with_fields(kind, changes):
    """The seed's voxels under a header with some fields overwritten."""
    header = HEADERS[kind].copy()
    for field, place, number in changes:
        cell = header.structarr[field]
        with np.errstate(all="ignore"):
            if cell.dtype.kind == "S":
                header[field] = bytes(str(number)[:4], "ascii")
                continue
            value = np.array(number).astype(cell.dtype, casting="unsafe")
        if cell.ndim:
            cell[place % len(cell)] = value
        else:
            header[field] = value
    content = header.binaryblock + b"\0\0\0\0"
    return content + SEED[fuzzed_scans.HEADER :]


@fuzz
@given(
    kind=st.sampled_from(sorted(HEADERS)),
    changes=st.lists(st.tuples(st.sampled_from(FIELDS), st.integers(0, 7), numbers), max_size=4),
    packed=st.booleans(),
)
def test_any_header_field_gives_slices_or_a_reason(folder, kind, changes, packed):
    content = with_fields(kind, changes)
    fuzzed_scans.outcome(fuzzed_scans.pack(content) if packed else content, folder)


@fuzz
@given(
    patches=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.none() | st.integers(0, len(SEED)),
    packed=st.booleans(),
)
def test_any_bytes_in_a_header_give_slices_or_a_reason(folder, patches, cut, packed):
    content = bytearray(SEED)
    for place, patch in patches:
        content[place : place + len(patch)] = patch
    content = bytes(content[:cut])
    fuzzed_scans.outcome(fuzzed_scans.pack(content) if packed else content, folder)


@fuzz
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([SEED[:352], SEED[352:], SEED, b""]).map(fuzzed_scans.pack),
            st.binary(max_size=40),
            st.binary(max_size=2000).map(fuzzed_scans.pack),
        ),
        max_size=6,
    ),
    patches=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.integers(0, 3000),
)
def test_any_gzip_stream_gives_slices_or_a_reason(folder, pieces, patches, cut):
    stored = bytearray(b"".join(pieces) or fuzzed_scans.pack(SEED))
    for place, bits in patches:
        stored[place % len(stored)] ^= bits
    fuzzed_scans.outcome(bytes(stored[:cut]), folder)


@fuzz
@given(
    dtype=st.sampled_from(["i1", "u2", "i4", "u8", "i8", "<f4", ">f4", "f8", "c8"]),
    values=st.lists(numbers, min_size=1, max_size=12),
    slope=st.sampled_from([np.nan, 1.0, -2.0, 1e-45, 3e38, np.inf]),
    inter=st.sampled_from([0.0, 1e30, -3e38]),
)
def test_any_values_give_slices_or_a_reason(folder, dtype, values, slope, inter):
    shape = (12, 12, 9)
    with np.errstate(all="ignore"):
        voxels = np.resize(np.array(values, object).astype(np.float64), shape).astype(dtype)
    header = nib.Nifti1Image.from_bytes(SEED).header.copy()
    header.set_data_dtype(voxels.dtype.newbyteorder("="))
    header["scl_slope"], header["scl_inter"] = slope, inter
    content = (
        header.binaryblock
        + b"\0\0\0\0"
        + voxels.astype(voxels.dtype.newbyteorder("=")).tobytes("F")
    )
    found = fuzzed_scans.outcome(content, folder)
    assert set(found.split(", ")) <= REASONS_OF_VALUES


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A good file of each other format by its name; of a pair the header, its voxels beside it."""
    folder = tmp_path_factory.mktemp("others")
    return {
        name: test_formats.write(folder, name, fuzzed_scans.seed_image())
        for name in ("x.mgh", "x.hdr", "one.mnc", "x.mnc")
    }


patches_anywhere = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.booleans(),
        st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff" * 7 + b"\x7f"])
        | st.binary(min_size=1, max_size=8),
    ),
    max_size=6,
)


@pytest.mark.parametrize("name", ["x.mgh", "x.hdr", "one.mnc", "x.mnc"])
@fuzz
@given(patches=patches_anywhere, cut=st.none() | st.floats(0, 1))
def test_any_bytes_in_another_format_give_slices_or_a_reason(others, name, patches, cut):
    good = others[name].read_bytes()
    content = bytearray(good)
    for place, early, patch in patches:
        start = int(place * (min(len(good), 2000) if early else len(good)))
        content[start : start + len(patch)] = patch
    content = bytes(content[: None if cut is None else int(cut * len(good))])
    try:
        fuzzed_scans.outcome(content, others[name].parent, name)
    finally:
        others[name].write_bytes(good)


def test_what_the_fuzz_starts_from_gives_slices(folder, others):
    """Else all of the above would try variations of a refusal."""
    for name, path in others.items():
        assert fuzzed_scans.outcome(path.read_bytes(), path.parent, name) == "slices"
    for kind in HEADERS:
        assert fuzzed_scans.outcome(with_fields(kind, []), folder) == "slices"


BOUNDED = """
import gzip, os, pathlib, resource, sys, zlib
import fuzzed_scans, numpy as np
from ixi_tfds.system.errors import ScanError
from ixi_tfds.nifti import read_volume

seed, packed = fuzzed_scans.seed_file(), fuzzed_scans.pack(fuzzed_scans.seed_file())
zeros = zlib.compressobj(9, wbits=31)
zeros = b"".join([zeros.compress(bytes(1 << 20)) for _ in range(300)]) + zeros.flush()
claim = bytearray(seed)
claim[42:48] = np.array([32767] * 3, "<i2").tobytes()
whole = bytearray(seed)
whole[42:48] = np.array([1000, 1000, 900], "<i2").tobytes()
files = {
    "claims 32767^3": bytes(claim),
    "claims 32767^3, packed": fuzzed_scans.pack(claim),
    "claims 32767^3, and packs what it can": fuzzed_scans.pack(claim) + zeros,
    "claims more than is read": fuzzed_scans.pack(whole) + zeros * 8,
    "a bomb behind a scan": packed + zeros,
    "a bomb and no header": zeros,
    "members without content": gzip.compress(b"", mtime=0) * 200_000,
    "a scan behind members without content": gzip.compress(b"", mtime=0) * 50_000 + packed,
}
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
# Seconds of this process, not of the clock: a busy machine changes little about them.
spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
resource.setrlimit(resource.RLIMIT_CPU, (spent + 30, resource.RLIM_INFINITY))
folder = pathlib.Path(sys.argv[1])
for name, content in files.items():
    path = folder / "x.nii.gz"
    path.write_bytes(content)
    try:
        read_volume(str(path))
        print(name, "slices", sep=": ")
    except ScanError as error:
        print(name, error.reason, sep=": ")
path.unlink()
os.mkfifo(path)
sparse = folder / "sparse.nii.gz"
with sparse.open("wb") as file:
    file.truncate(3 << 30)
for name, path in (("a pipe", path), ("a device", "/dev/zero"), ("3 GiB", sparse)):
    try:
        read_volume(str(path))
    except ScanError as error:
        print(name, error.reason, sep=": ")
"""


def test_bombs_claims_and_endless_files_cost_neither_memory_nor_time(tmp_path):
    """Under 32 MiB more than the process has before it reads, and in 30 s of its CPU's time."""
    tests = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,  # only for a wait that would never end
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tests / "support"), str(tests.parent)])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "claims 32767^3: corrupt_data",
        "claims 32767^3, packed: corrupt_data",
        "claims 32767^3, and packs what it can: corrupt_data",
        "claims more than is read: too_large",
        "a bomb behind a scan: corrupt_data",
        "a bomb and no header: not_nifti",
        "members without content: not_nifti",
        "a scan behind members without content: slices",
        "a pipe: unreadable",
        "a device: unreadable",
        "3 GiB: too_large",
    ]
