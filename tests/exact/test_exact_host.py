"""The host's program of the exact model equals the formulas in NumPy, for any shape, batch and processor."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import exact
from compressed_lm.exact.host import HostModel

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from exact_golden import SMALL, SMALL_TABLES, WIDE, WIDE_TABLES, digest, golden_inputs, golden_model  # noqa: E402
from host_cases import host_frequencies, host_logits  # noqa: E402

PROCESSORS = {
    "_Vnni256": ("alderlake", "+avx2,+avxvnni"),
    "_Avx2": ("haswell", "+avx2"),
    "_Pairs": ("x86-64", ""),
}
"""Instructions, with a processor that has them and a set of features."""


@pytest.fixture(scope="module")
def small():
    return HostModel(golden_model(SMALL), SMALL)


@pytest.mark.parametrize("block", [0, 1, 7, 32])
def test_golden_tables(small, block):
    """64 rows of 64 positions give the recorded tables in cached steps and in teacher-forced blocks of any size."""
    assert digest(host_frequencies(host_logits(small, golden_inputs(SMALL, 64), block))) == SMALL_TABLES


@pytest.mark.parametrize("block", [0, 32])
def test_golden_tables_at_context_1024(block):
    """Width 256 and context 1,024 give the recorded tables; products come within 1 % of 2**24."""
    model = HostModel(golden_model(WIDE), WIDE)
    assert digest(host_frequencies(host_logits(model, golden_inputs(WIDE, 1), block))) == WIDE_TABLES


SHAPES = st.builds(
    exact.ExactConfig,
    n_layers=st.integers(1, 3),
    d_model=st.integers(1, 70),
    n_heads=st.integers(1, 5),
    d_head=st.integers(1, 40),
    d_ff=st.integers(1, 90),
    context=st.integers(1, 50),
)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 20), st.integers(0, 40))
def test_any_shape_equals_the_formulas(exact_numpy, config, batch, block):
    """Widths that are no multiples of a vector, odd heads, one layer, one position: the logits are those of NumPy."""
    params, inputs = golden_model(config), golden_inputs(config, batch)
    wanted = exact_numpy.logits(params, config, inputs)
    assert np.array_equal(host_logits(HostModel(params, config), inputs, min(block, 32)), wanted)


def test_slots_restart_and_mix(small, exact_numpy):
    """One batch may hold blocks of some slots and single steps of others; what a slot held before does not matter."""
    inputs = golden_inputs(SMALL, 3)
    wanted = exact_numpy.logits(golden_model(SMALL), SMALL, inputs)
    with small.state(64) as state:
        at = [0, 0, 0]
        for counts in ((20, 1, 0), (3, 1, 5), (0, 0, 27), (1, 1, 1), (30, 2, 0)):
            rows = [(slot, at[slot] + i) for slot, n in enumerate(counts) for i in range(n)]
            for i, (slot, position) in enumerate(rows):
                state.inputs[i], state.slots[i], state.positions[i] = inputs[slot, position], slot, position
            small.forward(state, len(rows))
            for i, (slot, position) in enumerate(rows):
                assert np.array_equal(state.logits[i], wanted[slot, position])
                at[slot] = position + 1


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names processors of x86")
@pytest.mark.slow("compiles for several processors")
@pytest.mark.parametrize("instructions", PROCESSORS)
def test_every_set_of_instructions_gives_the_golden_tables(instructions, tmp_path):
    """The same bits with AVX-VNNI, with AVX2 alone, and with the generic code that other processors compile."""
    if instructions == "_Vnni256" and "avx_vnni" not in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-VNNI")
    name, features = PROCESSORS[instructions]
    chosen = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(HERE / "host_cases.py")],
        capture_output=True,
        text=True,
        env=os.environ | chosen,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert lines.pop() == ["instructions", instructions]
    assert [line[2] for line in lines] == [SMALL_TABLES] * 4 + [WIDE_TABLES] * 2
