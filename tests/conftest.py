"""What the tests share."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real scans that IXI_REAL_DATA names; the test is skipped where it is unset."""
    path = os.environ.get("IXI_REAL_DATA")
    if not path:
        pytest.skip("IXI_REAL_DATA is unset, so no real scans can be read")
    return pathlib.Path(path).resolve()
