"""Fits recover what is known and do not depend on units."""

import numpy as np
import pandas as pd
import pytest

from compressed_lm.scaling import CHINCHILLA, LINE, POWER, FitStatus, fit, fit_power


def grid():
    n, d = np.meshgrid(np.geomspace(1e6, 1e10, 8), np.geomspace(1e8, 1e12, 8))
    return n.ravel(), d.ravel()


@pytest.fixture(scope="module")
def chinchilla(data_dir):
    """N, D and losses of the 240 Chinchilla runs that Besiroglu et al. 2024 fit, without the five largest losses."""
    runs = pd.read_csv(data_dir / "scaling_runs" / "chinchilla_245.csv").sort_values("loss").iloc[:-5]
    n = runs["Model Size"].to_numpy()
    return n, runs["Training FLOP"].to_numpy() / (6 * n), runs["loss"].to_numpy()


def test_reproduces_the_published_chinchilla_fit(chinchilla):
    """The Huber fit of Besiroglu et al. 2024 comes out to all published digits."""
    n, d, loss = chinchilla
    result = fit(CHINCHILLA, {"n": n, "d": d}, loss)
    assert result.status == FitStatus.CONVERGED
    assert result.objective == pytest.approx(0.0010182740, abs=5e-11)
    assert result.params["A"] == pytest.approx(477.83, abs=0.01)
    assert result.params["B"] == pytest.approx(2143.4, abs=0.1)
    assert result.params["E"] == pytest.approx(1.81722, abs=1e-5)
    assert result.params["alpha"] == pytest.approx(0.34731, abs=1e-5)
    assert result.params["beta"] == pytest.approx(0.36717, abs=1e-5)


def test_small_delta_approaches_least_absolute_deviations(chinchilla):
    """With a vanishing threshold the fit goes to the published least-absolute-deviations optimum."""
    n, d, loss = chinchilla
    params = fit(CHINCHILLA, {"n": n, "d": d}, loss, delta=1e-6).params
    published = {"A": 482.006, "B": 2085.436, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585}
    assert {name: params[name] / value for name, value in published.items()} == pytest.approx(
        dict.fromkeys(published, 1.0), rel=5e-4
    )


def test_recovers_known_chinchilla_parameters_despite_outliers():
    """Exact data with a few wild points gives back the parameters that made it: the loss is robust."""
    n, d = grid()
    truth = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
    loss = CHINCHILLA(truth, n, d)
    loss[[3, 40]] *= [1.3, 0.8]
    result = fit(CHINCHILLA, {"n": n, "d": d}, loss, delta=1e-4)
    assert result.status == FitStatus.CONVERGED
    assert dict(result.params) == pytest.approx(truth, rel=2e-2)
    assert result.residuals[3] == pytest.approx(np.log(1.3), abs=1e-2)


def test_units_do_not_matter():
    """Other units of size, data and loss change the coefficients as they must and nothing else."""
    n, d = grid()
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=n.size))
    loss = CHINCHILLA({"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}, n, d) * noise
    plain = fit(CHINCHILLA, {"n": n, "d": d}, loss)
    other = fit(CHINCHILLA, {"n": n / 1e6, "d": d * 8}, loss / np.log(2))
    for name in ("alpha", "beta"):
        assert other.params[name] == pytest.approx(plain.params[name], rel=1e-5)
    assert other.params["E"] == pytest.approx(plain.params["E"] / np.log(2), rel=1e-5)
    assert other.predict(7.0, 8e9) == pytest.approx(plain.predict(7e6, 1e9) / np.log(2), rel=1e-6)
    np.testing.assert_allclose(other.residuals, plain.residuals, atol=1e-6)


def test_power_law_with_offset_and_its_straight_line():
    """Four points or more fit the floor E; fewer leave it out."""
    x = np.geomspace(1e5, 1e8, 6)
    result = fit_power(x, 3 * x**-0.2 + 0.5)
    assert result.law is POWER and result.status == FitStatus.CONVERGED
    assert dict(result.params) == pytest.approx({"A": 3.0, "E": 0.5, "alpha": 0.2}, rel=1e-6)
    result = fit_power(x[:3], 3 * x[:3] ** -0.2)
    assert result.law is LINE and dict(result.params) == pytest.approx({"A": 3.0, "alpha": 0.2}, rel=1e-6)
    np.testing.assert_allclose(result.predict(x), 3 * x**-0.2, rtol=1e-6)


def test_status_says_when_a_bound_was_hit():
    """A floor of zero and a loss that rises with size are reported, not hidden."""
    x = np.geomspace(1e5, 1e8, 6)
    floorless = fit_power(x, 3 * x**-0.2)
    assert floorless.status == FitStatus.AT_BOUND and floorless.at_bounds == ("E",) and floorless.params["E"] == 0
    rising = fit_power(x[:3], x[:3] ** 0.1)
    assert rising.status == FitStatus.AT_BOUND and rising.at_bounds == ("alpha",)


@pytest.mark.parametrize(
    ("inputs", "loss", "message"),
    [
        ({"n": [1, 2]}, [1, 2], "takes the inputs x, but n were given"),
        ({"x": [1, 2, 3]}, [1, 2], r"x has the shape \(3,\), the loss \(2,\)"),
        ({"x": [1, 0, 3, 4]}, [1, 2, 3, 4], r"x\[1\] is 0"),
        ({"x": [1, 2, 3, 4]}, [1, 2, np.nan, 4], r"loss\[2\] is nan"),
        ({"x": [1, 2]}, [1, 2], "2 points cannot determine the 3 parameters A, E, alpha"),
        ({"x": [5, 5, 5, 5]}, [1, 2, 3, 4], "Every point has x = 5"),
    ],
)
def test_bad_data_is_an_error_not_a_failed_fit(inputs, loss, message):
    """Data that cannot be fitted raise a message that names what is wrong."""
    with pytest.raises(ValueError, match=message):
        fit(POWER, inputs, loss)
