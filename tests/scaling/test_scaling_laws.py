"""Every law recovers the parameters of its data, and its derivatives are those of its formula."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from compressed_lm.scaling import FRANTAR_2023, FitStatus, fit, frantar2025, kumar, tables, unified

LARGE = {"A": 30.0, "B": 500.0, "E": 1.5, "alpha": 0.2, "beta": 0.3}
TANH = {"F": 0.41, "C": 1.39, "L": 1.0}
GMSE = [0.0, 0.0115429, 0.0374397, 0.118846, 0.36338]
NAMES = ["dense", "int4", "int3", "int2", "int1"]
RHO = {"rho[int4]": 0.85, "rho[int3]": 0.7, "rho[int2]": 0.45, "rho[int1]": 0.2}


def design(**columns):
    """Four sizes, three ratios of tokens to size, and every combination of the other columns."""
    rows = [
        {"n_params": n, "tokens": n * ratio, **dict(zip(columns, values, strict=True))}
        for n, ratio, *values in itertools.product((3e7, 6e7, 1.2e8, 2.4e8), (25, 100, 400), *columns.values())
    ]
    return pd.DataFrame(rows)


CASES = {
    "decoupled": (unified("free"), {"format": NAMES}, LARGE | RHO),
    "tanh": (unified("tanh"), {"gmse": GMSE}, LARGE | TANH),
    "logistic": (unified("logistic"), {"gmse": GMSE}, LARGE | {"rho_A": 0.8, "rho_B": 9.0}),
    "logistic10": (unified("logistic10"), {"gmse": GMSE}, LARGE | {"rho_A": 0.7, "rho_B": 3.0}),
    "tanh, product, shared": (
        unified("tanh", factors=("w", "a"), shared=True),
        {"w": GMSE[:4], "a": GMSE[:4]},
        LARGE | TANH,
    ),
    "tanh, product": (
        unified("tanh", factors=("w", "a")),
        {"w": GMSE[:4], "a": GMSE[:4]},
        LARGE | {"F[w]": 0.41, "C[w]": 1.39, "L[w]": 1.0, "F[a]": 0.5, "C[a]": 2.0, "L[a]": 1.0},
    ),
    "decoupled, product": (
        unified("free", factors=("w", "a"), reference=16),
        {"w": [2, 4, 16], "a": [3, 16]},
        LARGE | {"rho[w=2]": 0.4, "rho[w=4]": 0.8, "rho[a=3]": 0.6},
    ),
    "kumar": (
        kumar(bits=("w_bits", "a_bits")),
        {"w_bits": [2.0, 3, 4, 6, 16], "a_bits": [3.0, 4, 8, 16]},
        LARGE | {"gamma[w_bits]": 2.7, "n[w_bits]": 0.3, "gamma[a_bits]": 2.2, "n[a_bits]": 0.5},
    ),
    "kumar, tied, after training": (
        kumar(tied=True, post_bits=True, offsets=False),
        {"w_bits": [2.0, 3, 4, 6, 16], "post_bits": [3.0, 4, 6, 16]},
        {"A": 30.0, "B": 30.0, "C_T": 0.4, "E": 1.5, "alpha": 0.2, "gamma_D": 0.5, "gamma_N": 0.34, "decay_post": 1.7}
        | {"gamma[w_bits]": 2.7, "n[w_bits]": 0.0},
    ),
    "frantar2023": (
        FRANTAR_2023,
        {"sparsity": [0.0, 0.5, 0.75, 0.875]},
        {"a_S": 17.0, "c_S": 45.0, "B": 500.0, "E": 0.8, "b_S": 0.7, "b_N": 0.25, "b_D": 0.3},
    ),
    "frantar2025": (
        frantar2025(),
        {"format": ["dense", "w4", "w4a4"]},
        {"a": 30.0, "b": 0.2, "c": 500.0, "d": 0.3, "E": 1.5, "eff[w4]": 0.923, "eff[w4a4]": 0.747},
    ),
}


def made(case, noise=0.0):
    law, columns, truth = CASES[case]
    runs = design(**columns)
    law = dataclasses.replace(law, factors=tuple(f.bind(runs[f.column].to_numpy()) for f in law.factors))
    rng = np.random.default_rng(1)
    return law, runs.assign(loss=law(truth, runs) * np.exp(noise * rng.normal(size=len(runs)))), truth


@pytest.mark.parametrize("case", CASES)
def test_exact_runs_give_the_parameters_back(case):
    """Without noise, every parameter is recovered to at least four digits."""
    law, runs, truth = made(case)
    result = fit(runs, law, diagnose=False)
    assert result.status == FitStatus.CONVERGED
    assert {name: result.params[name] for name in truth} == pytest.approx(truth, rel=1e-4)
    assert result.objective < 1e-12


@pytest.mark.thinned(3, "refits thousands of resampled tables")
@pytest.mark.parametrize("case", CASES)
def test_noisy_runs_give_the_law_back(case):
    """With 0.2 % noise, the fitted law is within 0.3 % of the true one on every row, with a lower objective."""
    law, runs, truth = made(case, noise=0.002)
    result = fit(runs, law, diagnose=False)
    np.testing.assert_allclose(result.predict(runs), law(truth, runs), rtol=3e-3)
    residual = np.log(runs["loss"] / law(truth, runs))
    size = np.abs(residual)
    assert result.objective <= np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("space", ["log", "raw"])
def test_derivatives_are_those_of_the_formula(case, space):
    """Jacobian and summed second derivatives of the batched evaluation agree with differences of the plain formula."""
    law, runs, truth = made(case)
    data = tables.read(law, {name: name for name in (*law.columns, "loss")}, runs, loss=True)
    problem, units = tables.problem(law, data, fixed={}, loss_space=space, exponent_range=(0.01, 2.0))
    rng = np.random.default_rng(0)
    theta = np.array([truth[name] for name in law.parameters])
    linear = len(law.coefficients) + law.offset
    theta[:linear] = rng.uniform(-1.5, -0.5, linear)
    theta[theta == 0] = 0.1

    def predict(point):
        loss = law(units.params(problem, point), data) / units.loss
        return loss if space == "raw" else np.log(loss)

    def jacobian(point):
        steps = 1e-6 * np.eye(len(point)) * np.maximum(np.abs(point), 0.1)[:, None]
        return np.stack([(predict(point + s) - predict(point - s)) / (2 * s.sum()) for s in steps])

    value, slope, bend = problem.evaluate(theta[None])
    np.testing.assert_allclose(value[0], predict(theta), rtol=1e-10)
    np.testing.assert_allclose(slope[0], jacobian(theta), atol=1e-6 * np.abs(slope).max())
    weights = rng.normal(size=len(runs))
    step = 1e-4 * np.maximum(np.abs(theta), 0.1)
    expected = np.stack(
        [
            (problem.evaluate((theta + e)[None])[1][0] - problem.evaluate((theta - e)[None])[1][0]) @ weights / (2 * h)
            for e, h in zip(np.diag(step), step, strict=True)
        ]
    )
    np.testing.assert_allclose(bend(weights[None])[0], expected, atol=1e-4 * np.abs(expected).max())


def test_laws_are_the_formulas_of_their_papers():
    """Values by hand: capacities multiply the size, sparsity acts on the non-zero size, later quantisation adds."""
    row = {"n_params": [1e8], "tokens": [1e10], "w": [0.0115429], "a": [0.118846]}
    params = CASES["tanh, product"][2]
    rho = np.tanh(0.41 * np.log(0.0115429) / np.log(0.25)) ** 1.39 * np.tanh(0.5 * np.log(0.118846) / np.log(0.25)) ** 2
    expected = 30 * (1e8 * rho) ** -0.2 + 500 * 1e10**-0.3 + 1.5
    assert unified(factors=("w", "a"))(params, row) == pytest.approx(expected, rel=1e-12)
    row = {"n_params": [1e8], "tokens": [1e10], "sparsity": [0.75]}
    expected = (17 * 0.25**0.7 + 45) * 1e8**-0.25 + 500 * 1e10**-0.3 + 0.8
    assert FRANTAR_2023(CASES["frantar2023"][2], row) == pytest.approx(expected, rel=1e-12)
    law, _, params = CASES["kumar, tied, after training"]
    row = {"n_params": [1e8], "tokens": [1e10], "w_bits": [4.0], "post_bits": [3.0]}
    rho = 1 - np.exp(-4 / 2.7)
    expected = 30 * (1e8 * rho) ** -0.2 + 30 * 1e10**-0.2 + 1.5 + 0.4 * 1e10**0.5 / 1e8**0.34 * np.exp(-3 * 1.7)
    assert law(params, row) == pytest.approx(expected, rel=1e-12)


def test_a_law_of_the_data_scale_is_reported_in_tokens():
    """Frantar's a_D is the amount of data at which the term is 1."""
    result = fit(made("frantar2023")[1], FRANTAR_2023, diagnose=False)
    assert result.params["a_D"] == pytest.approx(500 ** (1 / 0.3), rel=1e-3)


def test_any_table_with_size_data_loss_and_format_is_fitted_by_name():
    """Other column names, numeric formats and another reference need keywords only."""
    _, runs, _ = made("decoupled")
    bits = {"dense": 16, "int4": 4, "int3": 3, "int2": 2, "int1": 1}
    other = pd.DataFrame(
        {"N": runs.n_params, "D": runs.tokens, "val": runs.loss, "bits": runs["format"].map(bits).astype(float)}
    )
    result = fit(other, "decoupled", n_params="N", tokens="D", loss="val", format="bits", reference=16)
    assert {name: result.params[f"rho[{name}]"] for name in (1, 2, 3, 4)} == pytest.approx(
        {4: 0.85, 3: 0.7, 2: 0.45, 1: 0.2}, rel=1e-4
    )
    np.testing.assert_allclose(result.predict(other), other.val, rtol=1e-6)


def test_a_top_below_one_is_found_when_it_is_freed():
    """L is 1 unless freed; if freed, it is recovered."""
    law, columns, truth = CASES["tanh"]
    runs = design(**columns)
    runs["loss"] = law(truth | {"L": 0.84}, runs)
    assert fit(runs, "tanh", diagnose=False).params["L"] == 1
    freed = fit(runs, "tanh", fixed={"L": None}, diagnose=False)
    assert freed.params["L"] == pytest.approx(0.84, rel=1e-4) and "L" not in freed.fixed


@pytest.mark.parametrize(
    ("law", "options", "runs", "message"),
    [
        ("decoupled", {}, {"format": ["a", "b"]}, "no row of the reference format 'dense'.*It has: a, b"),
        ("tanh", {}, {"gmse": [0.0, 1.0]}, "gmse is 1.0 in row 1. Expected a GMSE of at least 0"),
        ("kumar", {}, {"w_bits": [0.0, 4.0]}, "Expected bits above 0"),
        ("frantar2023", {}, {"sparsity": [0.0, 1.0]}, r"sparsity\[1\] is 1.0.*a share from 0 to below 1"),
        ("tanh", {"tied": True}, {"gmse": [0.0, 0.1]}, "does not take all of the options tied"),
        ("chinchilla", {"shared": True}, {"gmse": [0.0, 0.1]}, "takes no options, but shared were given"),
    ],
)
def test_columns_that_a_law_cannot_read_are_named(law, options, runs, message):
    """A missing reference, an error of 1, no bits, no weights, and options of another law raise."""
    table = pd.DataFrame({"n_params": [1e6, 2e6], "tokens": [1e8, 3e8], "loss": [3.0, 2.0], **runs})
    with pytest.raises(ValueError, match=message):
        fit(table, law, **options)


def test_an_unknown_format_cannot_be_predicted():
    """A format without a fitted capacity is named, with the known ones."""
    _, runs, _ = made("decoupled")
    result = fit(runs, "decoupled", diagnose=False)
    with pytest.raises(ValueError, match="No capacity is known for the format.s. nf4.*Known: int1, int2, int3, int4"):
        result.predict({"n_params": 1e8, "tokens": 1e9, "format": "nf4"})
