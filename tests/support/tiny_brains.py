"""A small dataset of made-up brains, by the real preprocessing job."""

import pathlib

from test_brains import flags, write_people

from beam_preprocess.__main__ import run

NAME = "ixi_t1/small"
SIZE, SLICES, SIDE_MM = (48, 32), 10, 5.0


def write_tiny_brains(root: pathlib.Path, *more: str) -> pathlib.Path:
    """Write 3 people to train on and one each to validate and test; returns `--data_dir`.

    Their slices, sagittal unless `more` flags say otherwise, have the sides of `SIZE`, which all
    models take.
    """
    people, data = write_people(root / "people"), root / "data"
    geometry = [f"--size={SIZE[0]}x{SIZE[1]}", f"--slices=0:{SLICES}"]
    assert run(flags(people, data, *geometry, *more)) == 0
    return data
