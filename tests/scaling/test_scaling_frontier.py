"""Quantities derived from a law: optimum, dense equivalents, forecasts."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

from compressed_lm.scaling import (
    CHINCHILLA,
    FRANTAR_2023,
    bootstrap,
    capacity_points,
    dense_equivalent,
    extrapolation,
    fit,
    kumar,
    optimum,
    rho,
    unified,
)

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28, "F": 0.41, "C": 1.39, "L": 1.0}
FORMATS = {"dense": 0.0, "int4": 0.0115429, "int2": 0.118846}


def runs(noise=0.0):
    rows = itertools.product(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 4), FORMATS)
    table = pd.DataFrame([(n, d, name, FORMATS[name]) for n, d, name in rows])
    table.columns = ["n_params", "tokens", "format", "gmse"]
    scatter = np.exp(noise * np.random.default_rng(0).normal(size=len(table)))
    return table.assign(loss=unified()(TRUTH, table) * scatter)


@pytest.mark.parametrize("gmse", [0.0, 0.0115429])
def test_the_optimum_is_the_least_loss_of_the_budget(gmse):
    """The closed form agrees with a search along N D = C / 6, dense and compressed."""
    result = fit(runs(), "tanh", diagnose=False)
    found = optimum(result, 1e21, gmse=gmse)

    def loss(log_n):
        return result.predict({"n_params": np.exp(log_n), "tokens": 1e21 / 6 / np.exp(log_n), "gmse": gmse})[0]

    search = scipy.optimize.minimize_scalar(loss, bounds=(15, 30), method="bounded", options={"xatol": 1e-10})
    assert found.n_params.value == pytest.approx(np.exp(search.x), rel=1e-4)
    assert found.n_params.value * found.tokens.value * 6 == pytest.approx(1e21)
    assert found.loss.value == pytest.approx(search.fun, rel=1e-10)
    assert found.exponent.value == pytest.approx(0.28 / 0.62, rel=1e-4) and np.isnan(found.loss.low)
    assert optimum(result, 1e21).n_params.value < optimum(result, 1e21, gmse=0.118846).n_params.value


def test_the_optimum_has_intervals_after_the_bootstrap():
    """N* and D* at one budget have intervals, whose product of ends is the budget."""
    result = bootstrap(fit(runs(0.01), "tanh", diagnose=False), samples=200)
    found = optimum(result, 1e21, gmse=0.118846)
    assert found.n_params.low < found.n_params.value < found.n_params.high
    assert found.n_params.low * found.tokens.high * 6 == pytest.approx(1e21, rel=1e-4)  # quantiles interpolate


def test_laws_without_a_closed_form_say_so():
    """A law with a term in both N and D has no closed-form optimum; an unknown column is named."""
    table = runs().assign(w_bits=lambda t: t["gmse"].map({0.0: 16.0, 0.0115429: 4.0, 0.118846: 2.0}), post_bits=16.0)
    table["post_bits"] = np.resize([3.0, 4.0, 16.0, 5.0], len(table))
    mixed = fit(table, kumar(post_bits=True), diagnose=False)
    with pytest.raises(ValueError, match="'kumar' has no single power of n_params"):
        optimum(mixed, 1e20)
    with pytest.raises(ValueError, match="format is no column of the law 'tanh'. It has: gmse"):
        optimum(fit(runs(), "tanh", diagnose=False), 1e20, format="int4")


def test_dense_equivalents_have_the_same_loss():
    """A dense model of N rho parameters has the loss of the compressed one; rho is that of the formula."""
    table = runs()
    for law in ("tanh", "decoupled"):
        result = fit(table, law, diagnose=False)
        np.testing.assert_allclose(result.rho(table), rho(table["gmse"], F=0.41, C=1.39), rtol=1e-4)
        dense = {"n_params": dense_equivalent(result, table), "tokens": table["tokens"], "gmse": 0.0, "format": "dense"}
        np.testing.assert_allclose(result.predict(dense), result.predict(table), rtol=1e-8)


def test_capacity_of_a_sparse_model_counts_its_non_zero_weights():
    """Frantar's law: the dense model of the same loss has N_nonzero [(a (1 - S)^b + c) / (a + c)]^(-1 / b_N)."""
    params = {"a_S": 17.0, "c_S": 45.0, "B": 500.0, "E": 0.8, "b_S": 0.7, "b_N": 0.25, "b_D": 0.3}
    rows = itertools.product(np.geomspace(1e7, 1e9, 4), (1e9, 1e10, 1e11), (0.0, 0.5, 0.75, 0.875))
    table = pd.DataFrame(rows, columns=["n_params", "tokens", "sparsity"])
    result = fit(table.assign(loss=FRANTAR_2023(params, table)), "frantar2023", diagnose=False)
    expected = ((17 * 0.25**0.7 + 45) / 62) ** -4
    assert result.rho({"n_params": 1e8, "tokens": 1e9, "sparsity": 0.75}) == pytest.approx(expected, rel=1e-3)
    assert optimum(result, 1e20, sparsity=0.75).n_params.value < optimum(result, 1e20).n_params.value


def test_free_capacities_stand_beside_their_errors():
    """One row for each format except the reference."""
    points = capacity_points(fit(runs(), "decoupled", diagnose=False), FORMATS)
    assert list(points["format"]) == ["int2", "int4"] and list(points["gmse"]) == [0.118846, 0.0115429]
    np.testing.assert_allclose(points["rho"], rho(points["gmse"], F=0.41, C=1.39), rtol=1e-4)
    assert points["low"].isna().all()


def test_extrapolation_holds_the_largest_runs_out():
    """A correct law predicts the large runs; a wrong one has larger errors there than on the fitted rows."""
    table = runs(0.002).query("gmse == 0")
    good = extrapolation(table, above=2e9, diagnose=False)
    assert set(good.table["n_params"]) == {n for n in table["n_params"] if n > 2e9}
    assert good.mean_absolute < 0.01 and good.fit.data["n_params"].max() <= 2e9
    bent = table.assign(loss=table["loss"] + 0.3 * (table["n_params"] > 2e9))
    worse = extrapolation(bent, above=2e9, diagnose=False)
    assert worse.mean_absolute > 0.1 and worse.fitted < 0.01 and (worse.table["error"] > 0).all()
    with pytest.raises(ValueError, match="0 of 24 rows have n_params above 1e.11"):
        extrapolation(table, above=1e11)


def test_the_law_of_the_chinchilla_paper_has_its_optimum():
    """Approach 3 of Hoffmann et al. 2022 (A 406.4, B 410.7, alpha .34, beta .28): N* grows as C^0.45."""
    table = runs().query("gmse == 0")
    table = table.assign(loss=CHINCHILLA(TRUTH, table))
    low, high = (optimum(fit(table, diagnose=False), flops) for flops in (1e20, 1e22))
    assert high.n_params.value / low.n_params.value == pytest.approx(100 ** (0.28 / 0.62), rel=1e-4)
