"""Scalar grids and their error on N(0, 1)."""

import re

import ml_dtypes
import numpy as np
import pytest
from scipy import integrate, stats

from compressed_lm.weights import PackedTensor, grids, pack, representation, unpack

FLOATS = {
    (2, 1): 0.0126849,
    (3, 2): 2.766e-3,
    (5, 2): 2.766e-3,
    (2, 3): 8.291e-4,
    (4, 3): 6.987e-4,
    (3, 4): 1.752e-4,
    (2, 5): 5.412e-5,
    (4, 1): 1.0639e-2,
    (6, 1): 1.0639e-2,
}


def test_levels_literal():
    """Integer grids have no zero; float grids have subnormals, one zero and the maxima of OCP OFP8."""
    assert grids.integer_levels(1).tolist() == [-1, 1]
    assert grids.integer_levels(2).tolist() == [-3, -1, 1, 3]
    assert grids.float_levels(2, 1).tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert [grids.float_levels(e, m)[-1] for e, m in [(4, 3), (5, 2), (3, 2), (2, 3)]] == [448, 57344, 28, 7.5]
    assert all(grids.float_levels(e, m)[-1] == grids.float_max(e, m) for e, m in FLOATS)


TYPES = {
    "e2m1": "float4_e2m1fn",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e3m4": "float8_e3m4",
    "e4m3": "float8_e4m3fn",
    "e4m3(nan=ieee)": "float8_e4m3",
    "e5m2": "float8_e5m2",
}
OF_OTHERS = {"float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz"}  # other biases


def finite(name):
    """Returns the finite values of a type of ml_dtypes, sorted."""
    kind = np.dtype(getattr(ml_dtypes, name))
    values = np.arange(2 ** ml_dtypes.finfo(kind).bits, dtype=np.uint8).view(kind).astype(np.float64)
    return np.unique(values[np.isfinite(values)]).tolist()


@pytest.mark.parametrize("spec", TYPES)
def test_named_floats_have_the_values_of_ml_dtypes(spec):
    """A format has exactly the finite values of the ml_dtypes type of its name."""
    assert representation(spec).grid().tolist() == finite(TYPES[spec])
    e, m = int(spec[1]), int(spec[3])
    assert "nan" in spec or grids.float_levels(e, m).tolist() == finite(TYPES[spec])
    assert grids.float_max(e, m, nan="ieee" if "nan" in spec else None) == finite(TYPES[spec])[-1]


def test_every_small_float_of_ml_dtypes_is_compared():
    """The test above covers all types with a sign, a mantissa and the usual bias."""
    names = {name for name in dir(ml_dtypes) if re.fullmatch(r"float[4-8]_e[2-6]m[1-5].*", name)}
    assert names == {*TYPES.values()} | OF_OTHERS


def test_packed_weights_of_an_older_e3m4_keep_their_levels():
    """fp(e=3,m=4), as in files of version 0.1.0, has 255 levels up to 31; e3m4 has another spec."""
    old, new = representation("fp(e=3,m=4)"), representation("e3m4")
    assert (len(old.grid()), old.grid()[-1]) == (255, 31) and (len(new.grid()), new.grid()[-1]) == (223, 15.5)
    assert str(old) == "fp(e=3,m=4)" and str(new) == "fp(e=3,m=4,nan=ieee)"
    codes, scale = np.arange(255, dtype=np.uint8), np.array(0.5, ml_dtypes.bfloat16)
    read = unpack(PackedTensor("fp(e=3,m=4)", (255, 1), -2, scale.tobytes() + codes.tobytes()))
    assert read[:, 0].tolist() == (0.5 * old.grid()).tolist()
    w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(64, 1)
    packed = pack(w, "e3m4")
    assert packed.spec == str(new) and np.array_equal(unpack(packed), new.quantize(w))


@pytest.mark.parametrize(
    "bits, alpha, gmse",
    [
        (1, 0.797885, 0.363380),
        (2, 1.493535, 0.118846),
        (3, 2.051068, 0.0374397),
        (4, 2.51393, 0.0115429),
        (5, 2.91609, 3.49521e-3),
        (6, 3.27660, 1.04005e-3),
        (7, 3.60104, 3.0437e-4),
        (8, 3.9222, 8.7686e-5),
    ],
)
def test_integer_grids_have_the_published_error(bits, alpha, gmse):
    """alpha* and GMSE equal those of papers/003 section 4 (its alpha* of 7 bits is from an incomplete search)."""
    levels = grids.integer_levels(bits)
    scale = grids.optimal_scale(levels)
    assert scale * levels[-1] == pytest.approx(alpha, rel=3e-3 if bits > 5 else 1e-4)
    assert grids.grid_error(levels, scale) == pytest.approx(gmse, rel=2e-4)


def test_ternary_and_float_grids_have_the_published_error():
    """GMSE equals that of papers/003 section 4 to the printed digits."""
    ternary = grids.ternary_levels()
    assert grids.optimal_scale(ternary) == pytest.approx(1.224009, rel=1e-5)
    assert grids.grid_error(ternary, grids.optimal_scale(ternary)) == pytest.approx(0.190174, rel=1e-5)
    for (e, m), gmse in FLOATS.items():
        levels = grids.float_levels(e, m, nan="none" if (e, m) == (3, 4) else None)  # printed for the grid of all codes
        assert grids.grid_error(levels, grids.optimal_scale(levels)) == pytest.approx(gmse, rel=2e-4), (e, m)


@pytest.mark.parametrize("n, gmse", [(4, 0.117482), (8, 0.0345478), (16, 9.50101e-3), (256, 4.127e-5)])
def test_lloyd_is_the_bound(n, gmse):
    """Lloyd-Max grids have the published error, are optimal at scale 1, and beat other grids of the same size."""
    levels = grids.lloyd_levels(n)
    error = grids.grid_error(levels, 1.0)
    assert error == pytest.approx(gmse, rel=3e-3)
    integers = grids.integer_levels(n.bit_length() - 1)
    assert error < grids.grid_error(integers, grids.optimal_scale(integers))
    assert grids.optimal_scale(levels) == pytest.approx(1, abs=2e-3)
    moved = levels.copy()
    moved[n // 2] *= 1.1
    assert grids.grid_error(moved, 1.0) > error


@pytest.mark.parametrize("levels", [grids.integer_levels(3), grids.float_levels(4, 3), grids.ternary_levels()])
def test_optimal_scale_is_a_minimum(levels):
    """A larger or smaller scale increases the error."""
    scale = grids.optimal_scale(levels)
    best = grids.grid_error(levels, scale)
    assert all(grids.grid_error(levels, scale * factor) > best for factor in (0.9, 0.98, 1.02, 1.1))


def test_error_equals_numerical_integration():
    """The closed form equals SciPy's adaptive quadrature, on the whole line and within a bound."""
    levels, edges = np.array([-1.4, -0.2, 0.9]), [-0.8, 0.35]
    cost = lambda x: stats.norm.pdf(x) * np.min((x - levels) ** 2)  # noqa: E731
    assert grids.truncated_error(levels, 20.0) == pytest.approx(
        integrate.quad(cost, -20, 20, points=[*edges, 0], limit=200)[0], rel=1e-9
    )
    assert grids.truncated_error(levels, 1.1) == pytest.approx(
        integrate.quad(cost, -1.1, 1.1, points=edges)[0], rel=1e-9
    )
    outside = lambda x: np.abs(x) > 0.5  # noqa: E731
    expected = sum(integrate.quad(cost, *ends, points=[p])[0] for *ends, p in [(-9, -0.5, -0.8), (0.5, 9, 1)])
    assert grids.grid_error(levels, 1.0, outside) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("group, gmse", [(16, 6.32e-3), (32, 8.20e-3), (64, 1.010e-2), (128, 1.199e-2)])
def test_absmax_groups_have_the_published_error(group, gmse):
    """GMSE of INT4 with abs-max groups equals that of papers/003 section 4."""
    assert grids.blockwise_error(grids.integer_levels(4), lambda m: m / 15, group) == pytest.approx(gmse, rel=5e-3)


def test_blockwise_error_equals_monte_carlo():
    """The integral over the largest magnitude equals the error of random blocks, with and without outliers."""
    x = np.random.default_rng(0).standard_normal((40_000, 12))
    levels = np.array([-1.0, -0.25, 0.0, 0.25, 1.0])
    for outliers in (0.0, 0.1):
        inside = np.abs(x) < (stats.norm.isf(outliers / 2) if outliers else np.inf)
        largest = np.max(np.where(inside, np.abs(x), 0), axis=1, keepdims=True)
        error = np.min((x[..., None] - levels * largest[..., None]) ** 2, axis=-1) * inside
        expected = grids.blockwise_error(levels, lambda m: m, 12, outliers=outliers)
        assert abs(error.mean() - expected) < 4 * error.mean(axis=1).std() / 200
