"""Small M1 with random weights, since losslessness and exactness must not depend on training."""

import pathlib

import pytest

from compressed_lm.codecs import M1
from compressed_lm.codecs.m1 import VARIABLE


@pytest.fixture(scope="session")
def m1() -> M1:
    """Returns the stored M1, whose bits are the same on every processor (see `make_m1.py`)."""
    return M1.from_bytes((pathlib.Path(__file__).with_name("data") / "m1.npz").read_bytes())


@pytest.fixture
def devices(monkeypatch):
    """Runs M1 on the devices of JAX, which are eight virtual CPUs."""
    monkeypatch.setenv(VARIABLE, "devices")


@pytest.fixture(params=["host", pytest.param("devices", marks=pytest.mark.slow("compiles M1 with JAX"))])
def engine(request, monkeypatch):
    """Runs M1 on the host, and on the devices of JAX."""
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param
