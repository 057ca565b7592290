"""Small M1 with random weights, since losslessness and exactness must not depend on training."""

import pathlib

import pytest

from compressed_lm.codecs import M1


@pytest.fixture(scope="session")
def m1() -> M1:
    """Returns the stored M1, whose bits are the same on every processor (see `make_m1.py`)."""
    return M1.from_bytes((pathlib.Path(__file__).with_name("data") / "m1.npz").read_bytes())
