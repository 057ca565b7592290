"""RF8: values, both roundings, bytes, and the errors of papers/002 section 5."""

import math
import pathlib
import runpy
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.weights import grids, packing, rf8

FLOAT8 = pathlib.Path(__file__).parents[2] / "experiments" / "generalized_gaussian" / "float8.py"

SPECS = {"nearest": "rf8", "authors": "rf8(round=authors)"}


def _power(exponent):
    return Fraction(2) ** exponent


def _rounded_log2(x):
    """Returns round(log2(x)) of a positive fraction without logarithms: 2**(e - 1/2) < x < 2**(e + 1/2)."""
    e = math.frexp(float(x))[1]
    while x * x < _power(2 * e - 1):
        e -= 1
    return e


def _authors(w, *, limit=4):
    """Returns the result of the authors' two steps for a fraction, with an unlimited range."""
    if not w:
        return w
    e1 = _rounded_log2(abs(w))
    first = math.copysign(1, w) * _power(e1)
    rest = w - Fraction(first)
    if not rest:
        return w
    e2 = _rounded_log2(abs(rest))
    second = Fraction(math.copysign(1, rest)) * _power(e2)
    return Fraction(first) + (second if e1 - e2 <= limit else 0)


def _magnitudes(power):
    """Returns all magnitudes of RF8 for a matrix's power of two, from the eight residuals and sixteen exponents."""
    residuals = (0, "1/2", "1/4", "1/8", "1/16", "-1/4", "-1/8", "-1/16")
    return sorted({power * _power(-e) * (1 + Fraction(r)) for e in range(16) for r in residuals})


def _of_matrix(column, rounding):
    """Returns the rounded weights of one matrix [n, 1], found by enumeration of all values."""
    column = [Fraction(float(w)) for w in column]
    largest, power = max(map(abs, column)), Fraction(1)
    while largest > power * Fraction(3, 2):
        power *= 2
    while largest <= power * Fraction(3, 4):
        power /= 2
    values = [Fraction(0), *_magnitudes(power)]
    rounded = []
    for w in column:
        size = min(values, key=lambda v: (abs(v - abs(w)), v))
        if rounding == "authors" and abs(w) >= values[1]:
            size = abs(_authors(w))
            assert size in values
        rounded.append(float(size if w > 0 else -size))
    return np.array(rounded) + 0.0  # no -0


def _quantize(w, spec="rf8"):
    return np.asarray(weights.representation(spec).quantize(jnp.asarray(w, jnp.float32)))


@pytest.mark.parametrize("rounding", SPECS)
def test_golden_values(rounding):
    """The digest's examples and zero are rounded as expected."""
    w = np.array([1.3, 1.42, 1.7, 3, 0.3, 1.03, 0, -1.3, -0.3])
    expected = [1.25, 1.5, 1.75, 3, 0.3125, 1, 0, -1.25, -0.3125]
    assert _quantize(w[:, None], SPECS[rounding])[:, 0].tolist() == expected
    assert [float(_authors(Fraction(float(x)))) for x in w] == expected


def test_values_of_an_octave():
    """The values in an octave are the seven expected ones."""
    w = np.append(np.linspace(1, 2, 100_001)[:-1], 1024)
    for spec in SPECS.values():
        assert sorted(set(_quantize(w[:, None], spec)[:-1, 0].tolist())) == [
            *(1, 1.0625, 1.125, 1.25, 1.5, 1.75, 1.875, 2)
        ]


@pytest.mark.thinned(3, "compiles each format")
@pytest.mark.parametrize("rounding", SPECS)
@pytest.mark.parametrize("scale", [1.0, 2.0**-0.5, 1e-3, 3e20, 1e-20])
def test_equals_enumeration(rounding, scale):
    """Values of weights from thirty binades, and of zero, equal those of a full search."""
    rng = np.random.default_rng(0)
    w = (rng.standard_normal(700) * 2.0 ** rng.uniform(-25, 5, 700) * scale).astype(np.float32)
    w[:2] = 0, -0.0
    np.testing.assert_array_equal(_quantize(w[:, None], SPECS[rounding])[:, 0], _of_matrix(w, rounding))


@pytest.mark.parametrize("rounding", SPECS)
def test_both_sides_of_every_boundary(rounding):
    """The float32 neighbours of each boundary are rounded as in exact arithmetic.

    This includes the boundary of the smallest magnitude, and 1.5, above which the matrix's power of two changes.
    """
    _, edges = rf8.octave(rounding)
    w = [1.25, rf8.SMALLEST, rf8.SMALLEST / 2, 0.7 * rf8.SMALLEST]
    w += [edge * 2.0**e for edge in (*edges, 1.5) for e in (-1, -7, -14)]
    w = np.array(w, np.float32)
    w = np.concatenate([w, np.nextafter(w, np.float32(0)), np.nextafter(w, np.float32(9)), -w])
    np.testing.assert_array_equal(_quantize(w[:, None], SPECS[rounding])[:, 0], _of_matrix(w, rounding))
    for largest in (1.5, np.nextafter(np.float32(1.5), np.float32(2)), 1.9999999, 2.0, 0.75):
        w = np.array([largest, rf8.SMALLEST, 1.5 * rf8.SMALLEST], np.float32)
        np.testing.assert_array_equal(_quantize(w[:, None], SPECS[rounding])[:, 0], _of_matrix(w, rounding))


@pytest.mark.parametrize("limit, mse", [(2, 7.1e-3), (3, 2.1e-3), (4, 1.56e-3), (5, 1.490e-3), (6, 1.482e-3)])
def test_what_the_limit_of_the_residual_costs(limit, mse):
    """The relative squared error of the authors' rounding on a Gaussian, by limit, is that of papers/002 to 2.5 %.

    It is computed from the cells of an octave, and with the two steps for draws.
    """
    points, edges = rf8.octave("authors", limit=limit)
    powers = 2.0 ** np.arange(-30, 4)[:, None]
    levels, edges = (points[None] * powers).reshape(-1), (edges[None] * powers).reshape(-1)[:-1]
    error = grids.grid_error(levels, 1.0, lambda x: 1.0 * (x > 0), edges=edges)
    assert 2 * error == pytest.approx(mse, rel=0.025)
    x = np.random.default_rng(0).standard_normal(4000)
    errors = [float(_authors(Fraction(w), limit=limit) - Fraction(w)) ** 2 for w in x]
    assert abs(np.mean(errors) - 2 * error) < 4 * np.std(errors) / len(x) ** 0.5


@pytest.mark.parametrize("rounding, gmse", [("nearest", 1.416e-3), ("authors", 1.56e-3)])
def test_gmse_is_the_published_one(rounding, gmse):
    """GMSE equals that of papers/002 to 0.5 % and that of two million draws within four standard errors."""
    rep = weights.representation(SPECS[rounding])
    assert rep.gmse() == pytest.approx(gmse, rel=5e-3)
    w = np.random.default_rng(1).standard_normal((2_000_000, 1)).astype(np.float32)
    errors = (_quantize(w, str(rep)) - w) ** 2
    assert abs(errors.mean() - rep.gmse()) < 4 * errors.std() / 2e6**0.5


def test_relative_errors_of_log_uniform_weights():
    """The relative error of the authors' rounding is 3.97 %, at most 10.8 %, as published; `nearest` has less."""
    w = 2.0 ** np.linspace(-8, 0, 800_001)[:-1]
    relative = {name: np.abs(_quantize(w[:, None], spec)[:, 0] / w - 1) for name, spec in SPECS.items()}
    assert np.mean(relative["authors"] ** 2) ** 0.5 == pytest.approx(0.0397, abs=1e-4)
    assert relative["authors"].max() == pytest.approx(0.108, abs=5e-4)
    assert relative["nearest"].max() == pytest.approx(1 / 11, abs=1e-4)  # 1.375 is between 1.25 and 1.5
    assert np.mean(relative["nearest"] ** 2) < np.mean(relative["authors"] ** 2)


def test_a_byte_a_weight():
    """Bytes of given weights are sign, exponent and residual, zero is byte 0, and a matrix has one more byte."""
    w = np.array([1.5, 1, -1.25, 0.75, 0.046875, rf8.SMALLEST, 0, -0.0, -rf8.SMALLEST, 0.875])
    packed = weights.pack(jnp.asarray(w, jnp.float32)[:, None], "rf8")
    fields = [(0, 15, 0), (0, 15, 4), (1, 15, 7), (0, 15, 1), (0, 11, 1), (0, 0, 1), None, None, (1, 0, 1), (0, 15, 2)]
    expected = [field[0] << 7 | field[1] << 3 | field[2] if field else 0 for field in fields]
    assert packed.payload == bytes([127, *expected])  # the matrix's power of two is 2**(127 - 127)
    assert weights.representation("rf8").bits_per_weight((4, 25)) == 8 + 8 / 100
    assert weights.representation("rf8").bits_per_weight((3, 4, 25)) == 8 + 8 / 100


def test_all_bytes():
    """227 bytes have distinct values, those of sixteen binades and zero; the other bytes are refused."""
    values = {}
    for code in range(256):
        tensor = packing.PackedTensor("rf8", (1, 1), -2, bytes([127, code]))
        try:
            values[code] = float(weights.unpack(tensor)[0, 0])
        except InputError as error:
            assert "values has a byte without a value" in str(error)
    magnitudes = [float(m) for m in _magnitudes(Fraction(1))]
    assert len(magnitudes) == 113
    assert sorted(values.values()) == [*(-m for m in magnitudes[::-1]), 0, *magnitudes]
    codes = rf8.ResidualCodes((len(values),)).to_bytes(np.array(list(values.values())))
    assert list(codes) == list(values)


def test_each_matrix_of_a_stack_has_its_exponent():
    """Scaling a matrix of a stack, or one activation vector, by a power of two scales its values by the same."""
    w = jax.random.normal(jax.random.key(0), (3, 40, 7))
    factors = jnp.array([1.0, 2.0**40, 2.0**-40])[:, None, None]
    np.testing.assert_array_equal(_quantize(w * factors), _quantize(w) * factors)
    rep, x = weights.representation("rf8"), w[0, :4] * jnp.exp2(20.0 * jnp.arange(4))[:, None]
    alone = jnp.concatenate([rep.quantize(row[None], axis=-1) for row in x])
    np.testing.assert_array_equal(rep.quantize(x, axis=-1), alone)


def test_a_hybrid_takes_its_exponent_from_what_it_keeps():
    """Kept weights equal those without sparsity, the others are exactly 0, and half of the weights are stored."""
    w = jax.random.normal(jax.random.key(0), (64, 32))
    hybrid, plain = _quantize(w, "sparse(s=0.5)+rf8"), _quantize(w)
    kept = hybrid != 0
    assert kept.sum() == 64 * 32 / 2 and np.array_equal(hybrid[kept], plain[kept])
    assert weights.representation("sparse(s=0.5)+rf8").bits_per_weight((64, 32)) == 1 + 4 + 8 / 2048


def test_the_gradient_goes_straight_through():
    """The gradient is straight-through, also for flushed and clipped weights."""
    w = jnp.array([[1.3], [1e-9], [-1.9], [0.0]])
    gradient = jax.grad(lambda w: jnp.sum(weights.representation("rf8").quantize(w) * jnp.arange(1.0, 5)[:, None]))(w)
    assert gradient[:, 0].tolist() == [1, 2, 3, 4]


def test_weights_at_the_ends_of_float32():
    """The largest weights are clipped to 1.5 * 2**126, subnormal ones become 0, and NaN stays NaN."""
    assert _quantize([[3e38, 1e38, -3.4e38, 1.0]]).tolist() == [[1.5 * 2.0**126, 1.125 * 2.0**126, -1.5 * 2.0**126, 0]]
    assert _quantize(np.full((3, 1), 1e-40)).tolist() == [[0], [0], [0]]
    assert np.isnan(_quantize(np.array([[np.nan], [1.0]]))[0, 0])
    with pytest.raises(InputError, match="rf8 has no code for NaN"):
        weights.pack(np.array([[np.nan], [1.0]]), "rf8")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("rf8(round=up)", "round=up was given to the representation rf8.* Valid: nearest, authors"),
        ("rf8(rule=lsq)", "rf8 has no option 'rule=lsq'.* Its options: round=nearest"),
        ("rf8(rounding=nearest)", "rounding"),
    ],
)
def test_errors_say_what_is_valid(spec, message):
    """The error for an unknown option lists the valid options."""
    with pytest.raises(InputError, match=message):
        weights.representation(spec)


@pytest.mark.slow("compiles each format")
def test_the_table_of_8_bit_floats():
    """The table has a row per format; errors of RF8 are between E4M3 and E5M2, by the factors of papers/002.

    The range of E3M4 is too small.
    """
    script = runpy.run_path(str(FLOAT8))
    rows = {row["format"]: row for row in script["table"](side=128, trials=2)}
    for shape in ("shape_0.5", "shape_1", "shape_2"):
        error = {name: row[shape] for name, row in rows.items()}
        assert error["rf8(round=authors)"] / error["e4m3"] == pytest.approx(2.2, abs=0.2)
        assert error["e5m2"] / error["rf8(round=authors)"] == pytest.approx(1.8, abs=0.2)
        assert error["e3m4"] < error["e4m3"] < error["rf8"] < error["rf8(round=authors)"] < error["e5m2"]
    assert rows["e3m4"]["binades_15_rms"] > 0.2 > 0.06 > rows["rf8"]["binades_15_rms"]
    assert rows["rf8"]["binades"] == rows["rf8"]["normal_binades"] == 16
    assert [round(rows[name]["normal_binades"], 1) for name in ("e4m3", "e5m2", "e3m4")] == [14.8, 29.8, 6.0]
    lines = script["markdown"](list(rows.values())).splitlines()
    assert len(lines) == 7 and len({line.count("|") for line in lines}) == 1
    with pytest.raises(InputError, match="trials=1 and side=256 were given; expected 2 or more trials"):
        script["table"](side=256, trials=1)
