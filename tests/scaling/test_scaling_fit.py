"""Fits recover known parameters and do not depend on units."""

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

from compressed_lm.scaling import CHINCHILLA, LINE, POWER, FitStatus, fit, fit_power

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}


def grid(noise=0.0):
    n, d = np.meshgrid(np.geomspace(1e6, 1e10, 8), np.geomspace(1e8, 1e12, 8))
    runs = pd.DataFrame({"n_params": n.ravel(), "tokens": d.ravel()})
    rng = np.random.default_rng(0)
    return runs.assign(loss=CHINCHILLA(TRUTH, runs) * np.exp(noise * rng.normal(size=len(runs))))


def test_recovers_known_parameters():
    """Exact data give the true parameters, and noisy data give close ones."""
    exact = fit(grid())
    assert exact.status == FitStatus.CONVERGED and not exact.warnings
    assert dict(exact.params) == pytest.approx(TRUTH, rel=1e-6)
    noisy = fit(grid(0.003))
    assert noisy.status == FitStatus.CONVERGED
    assert dict(noisy.params) == pytest.approx(TRUTH, rel=0.1)


def test_recovers_known_parameters_despite_outliers():
    """Exact data with a few outliers give the true parameters: the loss is robust."""
    runs = grid()
    runs.loc[[3, 40], "loss"] *= [1.3, 0.8]
    result = fit(runs, delta=1e-4)
    assert result.status == FitStatus.CONVERGED
    assert dict(result.params) == pytest.approx(TRUTH, rel=2e-2)
    assert result.residuals[3] == pytest.approx(np.log(1.3), abs=1e-2)


@pytest.mark.parametrize("space", ["log", "raw"])
def test_a_general_minimiser_finds_nothing_better(space):
    """SciPy, started at the fit and at the truth with another parametrisation, finds no lower objective."""
    runs, delta = grid(0.01), 2e-3
    result = fit(runs, delta=delta, loss_space=space)

    def objective(p):
        a, b, e, alpha, beta = p
        predicted = np.exp(a) * runs.n_params**-alpha + np.exp(b) * runs.tokens**-beta + np.exp(e)
        residual = np.log(runs.loss / predicted) if space == "log" else runs.loss - predicted
        return scipy.special.huber(delta, residual).sum()

    ends = []
    for params in (result.params, TRUTH):
        start = [*np.log([params["A"], params["B"], params["E"]]), params["alpha"], params["beta"]]
        ends.append(scipy.optimize.minimize(objective, start, method="Nelder-Mead", options={"maxiter": 4000}).fun)
    assert result.objective <= min(ends) * (1 + 1e-9)
    assert result.objective == pytest.approx(ends[0], rel=1e-6)


@pytest.mark.parametrize("space", ["log", "raw"])
def test_units_do_not_matter(space):
    """Other units of size, data and loss change the coefficients accordingly and nothing else."""
    runs, bits = grid(0.01), 1 / np.log(2)
    plain = fit(runs, loss_space=space)
    changed = pd.DataFrame({"millions": runs.n_params / 1e6, "bits": runs.tokens * 8, "loss": runs.loss * bits})
    delta = 1e-3 if space == "log" else 1e-3 * bits
    other = fit(changed, n_params="millions", tokens="bits", delta=delta, loss_space=space)
    for name in ("alpha", "beta"):
        assert other.params[name] == pytest.approx(plain.params[name], rel=1e-6)
    assert other.params["E"] == pytest.approx(plain.params["E"] * bits, rel=1e-6)
    here = {"n_params": 7e6, "tokens": 1e9}
    assert other.predict({"millions": 7.0, "bits": 8e9}) == pytest.approx(plain.predict(here) * bits, rel=1e-7)
    scale = 1 if space == "log" else bits
    np.testing.assert_allclose(other.residuals, plain.residuals * scale, atol=1e-7)
    assert other.objective == pytest.approx(plain.objective * scale**2, rel=1e-7)


def test_fixed_parameters_stay_and_the_others_follow():
    """A fixed exponent, floor or coefficient keeps its value in the table's units, and the rest is recovered."""
    for fixed in ({"alpha": 0.34}, {"E": 1.69}, {"A": 406.4}, {"A": 406.4, "beta": 0.28}):
        result = fit(grid(), fixed=fixed)
        assert dict(result.params) == pytest.approx(TRUTH, rel=1e-5)
        assert dict(result.fixed) == pytest.approx(fixed)
    wrong = fit(grid(), fixed={"alpha": 0.4, "E": 0})
    assert wrong.params["alpha"] == 0.4 and wrong.params["E"] == 0 and wrong.objective > 1e-3


def test_prediction_takes_the_names_of_the_law_or_of_the_table():
    """Rows are read by either name, scalars are repeated, and a missing column is named."""
    runs = grid().rename(columns={"n_params": "Model Size"})
    result = fit(runs, n_params="Model Size")
    np.testing.assert_allclose(result.predict(runs), runs.loss, rtol=1e-6)
    both = result.predict({"n_params": [1e6, 1e7], "tokens": 1e9})
    np.testing.assert_allclose(both, CHINCHILLA(TRUTH, {"n_params": [1e6, 1e7], "tokens": [1e9, 1e9]}), rtol=1e-6)
    with pytest.raises(ValueError, match="needs the column 'tokens' and was given n_params"):
        result.predict({"n_params": 1e6})


def test_power_law_with_offset_and_its_straight_line():
    """At least four points fit the floor E; fewer do not."""
    x = np.geomspace(1e5, 1e8, 6)
    result = fit_power(x, 3 * x**-0.2 + 0.5)
    assert result.law.name == POWER.name and result.status == FitStatus.CONVERGED
    assert dict(result.params) == pytest.approx({"A": 3.0, "E": 0.5, "alpha": 0.2}, rel=1e-6)
    result = fit_power(x[:3], 3 * x[:3] ** -0.2)
    assert result.law.name == LINE.name
    assert dict(result.params) == pytest.approx({"A": 3.0, "alpha": 0.2}, rel=1e-6)
    np.testing.assert_allclose(result.predict({"x": x}), 3 * x**-0.2, rtol=1e-6)


def test_the_run_tables_of_this_package_need_no_names():
    """If a table has the names of `evaluate` and `sweep` instead of the law's, these are used."""
    runs = grid()
    ours = runs.rename(columns={"loss": "loss_nats_per_token"})
    assert fit(ours).params == fit(runs).params
    assert fit(ours.assign(loss=runs["loss"] * 2)).params["E"] == pytest.approx(2 * fit(runs).params["E"], rel=1e-4)


def test_status_says_when_a_bound_was_hit():
    """A floor of zero and a loss that rises with size are reported, not hidden."""
    x = np.geomspace(1e5, 1e8, 6)
    floorless = fit_power(x, 3 * x**-0.2)
    assert floorless.status == FitStatus.AT_BOUND and floorless.at_bounds == ("E",) and floorless.params["E"] == 0
    assert "not determined by the runs: E" in floorless.warnings[0]
    rising = fit_power(x[:3], x[:3] ** 0.1)
    assert rising.status == FitStatus.AT_BOUND and rising.at_bounds == ("alpha",)


def test_summary_shows_parameters_and_what_was_fixed():
    """The text has each parameter with its value, the objective, and `fixed` for fixed parameters."""
    text = fit(grid(), fixed={"alpha": 0.34}).summary()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["E"][1] == "1.69" and lines["alpha"][1:] == ["0.34", "fixed"]
    assert lines["status:"][1] == "converged" and lines["runs:"][1] == "64"


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ({"n": [1, 2], "loss": [1, 2]}, {}, "lacks the column.s. 'x', which the law 'power' reads. It has: n, loss"),
        ({"x": [1, 0, 3, 4], "loss": [1, 2, 3, 4]}, {}, r"x\[1\] is 0"),
        ({"x": [1, 2, 3, 4], "loss": [1, 2, np.nan, 4]}, {}, r"loss\[2\] is nan"),
        ({"x": [1, 2], "loss": [1, 2]}, {}, "2 points cannot determine the 3 parameters A, E, alpha"),
        ({"x": [5, 5, 5, 5], "loss": [1, 2, 3, 4]}, {}, "Every point has x = 5"),
        ({"x": [1, 2, 3], "loss": [1, 2, 3]}, {"fixed": {"gamma": 1}}, "gamma cannot be fixed: the law 'power' has"),
        ({"x": [1, 2, 3], "loss": [1, 2, 3]}, {"loss_space": "linear"}, "Expected 'log' or 'raw'"),
        ({"x": [1, 2, 3], "loss": [1, 2, 3]}, {"delta": 0}, "Expected a threshold above 0"),
        ({"x": [1, 2, 3], "loss": [1, 2, 3]}, {"y": "x"}, "y is no column of the law 'power'"),
    ],
)
def test_bad_data_is_an_error_not_a_failed_fit(runs, options, message):
    """Data that cannot be fitted raise a message that names what is wrong."""
    with pytest.raises(ValueError, match=message):
        fit(pd.DataFrame(runs), "power", **options)


def test_an_unknown_law_names_the_known_ones():
    """The message lists the laws."""
    with pytest.raises(ValueError, match="no law 'chinchila'. Expected one of: chinchilla, decoupled"):
        fit(grid(), "chinchila")
