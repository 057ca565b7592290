"""Plots of a fit: values, given axes, and undetermined fits."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from compressed_lm.scaling import bootstrap, budget_plots, fit, law_plots, optimum, read_table, rho, unified

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28, "F": 0.41, "C": 1.39, "L": 1.0}
FORMATS = {"dense": 0.0, "int4": 0.0115429, "int2": 0.118846}


def runs():
    rows = itertools.product(np.geomspace(1e8, 1e9, 5), (1e18, 1e19, 1e20), FORMATS)
    table = pd.DataFrame([(n, c / (6 * n), name, FORMATS[name]) for n, c, name in rows])
    table.columns = ["n_params", "tokens", "format", "gmse"]
    scatter = np.exp(0.002 * np.random.default_rng(0).normal(size=len(table)))
    return table.assign(loss=unified()(TRUTH, table) * scatter)


@pytest.fixture(scope="module")
def fitted():
    return bootstrap(fit(runs(), "tanh"), samples=100)


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_isoflop_marks_the_minima(fitted):
    """The budgets of the runs are found, each minimum is at N*(C), and the runs of a budget are drawn."""
    ax = budget_plots.isoflop(fitted)
    minimum = lines(ax)["minimum"]
    expected = [optimum(fitted, flops) for flops in (1e18, 1e19, 1e20)]
    np.testing.assert_allclose(minimum, [[e.n_params.value, e.loss.value] for e in expected], rtol=1e-6)
    curve = lines(ax)["1.0 · 10$^{19}$ FLOPs"]
    np.testing.assert_allclose(curve[:, 1].min(), expected[1].loss.value, rtol=1e-4)
    dense = runs().query("format == 'dense'")
    drawn = np.concatenate([line.get_xydata() for line in ax.lines if line.get_linestyle() == "None"])
    assert {tuple(point) for point in dense[["n_params", "loss"]].to_numpy()} <= {tuple(point) for point in drawn}


def test_iso_loss_draws_the_frontier(fitted):
    """The frontier passes through the optimum of a budget."""
    ax = budget_plots.iso_loss(fitted, gmse=0.0115429)
    flops, sizes = lines(ax)["best size for the budget"].T
    at = optimum(fitted, 1e19, gmse=0.0115429).n_params.value
    assert np.interp(np.log(1e19), np.log(flops), np.log(sizes)) == pytest.approx(np.log(at), abs=1e-3)
    assert len(lines(ax)["runs"]) == 15


def test_capacity_curve_and_points(fitted):
    """The curve is the law's, and free capacities are at their effective bits."""
    points = pd.DataFrame({"gmse": [0.0115429, 0.118846], "rho": [0.8, 0.4], "format": ["int4", "int2"]})
    ax = law_plots.capacity_against_bits(fitted, points=points)
    (curve,) = (data for label, data in lines(ax).items() if label.startswith("tanh, gmse"))
    f, c = fitted.params["F"], fitted.params["C"]
    np.testing.assert_allclose(curve[:, 1], rho(4.0 ** -curve[:, 0], F=f, C=c), rtol=1e-9)
    np.testing.assert_allclose(lines(ax)["free capacity"], [[3.2184, 0.8], [1.5364, 0.4]], atol=1e-3)


def test_residuals_are_percent_of_the_prediction(fitted):
    """Each format is one series; all points together are the residuals."""
    ax = law_plots.residuals(fitted)
    series = [data for label, data in lines(ax).items() if label in ("0", "0.0115", "0.119")]
    assert [len(data) for data in series] == [15, 15, 15]
    drawn = np.sort(np.concatenate(series)[:, 1])
    np.testing.assert_allclose(drawn, np.sort(100 * np.expm1(fitted.residuals)), atol=1e-9)


@pytest.mark.parametrize(
    "draw",
    [
        law_plots.residuals,
        law_plots.profile,
        law_plots.capacity_against_bits,
        budget_plots.isoflop,
        budget_plots.iso_loss,
    ],
)
def test_plots_use_the_axes_they_are_given(fitted, draw):
    """A given `ax` is used and returned; otherwise a figure is created."""
    ax = Figure().add_subplot()
    assert draw(fitted, ax=ax) is ax
    assert draw(fitted).figure is not ax.figure
    assert fitted.plot(ax=ax) is ax


SIX = pd.DataFrame({"n_params": np.linspace(1e6, 2e6, 6), "tokens": np.array([1.0, 2.2, 1.4, 3.0, 1.8, 2.6]) * 1e8})
UNDETERMINED = {
    "noise": SIX.assign(loss=[4.01, 3.95, 4.03, 3.97, 4.06, 3.99]),
    "noise that size lowers": SIX.assign(loss=[4.06, 4.03, 4.01, 3.99, 3.97, 3.95]),
    "flat": SIX.assign(loss=4.0),
    "rising with size": SIX.assign(loss=[3.0, 3.03, 3.07, 3.09, 3.12, 3.15]),
    "data alone": SIX.assign(loss=lambda t: 2 + 400 * t["tokens"] ** -0.3),
    "good": SIX.assign(loss=lambda t: 1.69 + 406 * t["n_params"] ** -0.34 + 410 * t["tokens"] ** -0.28),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_plots_of_undetermined_fits_stay_with_the_runs(name):
    """Six runs within a factor of 3: short tick labels, limits near the runs and labelled contours."""
    fitted = fit(UNDETERMINED[name], diagnose=False, starts=6)
    fitted = bootstrap(fitted, samples=3) if name == "noise" else fitted
    for draw in (
        budget_plots.isoflop,
        budget_plots.iso_loss,
        law_plots.measured_against_predicted,
        law_plots.residuals,
    ):
        ax = draw(fitted)
        ax.figure.canvas.draw()
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            assert max(len(label.get_text()) for label in axis.get_ticklabels()) <= 16
            assert sum(low <= place <= high for place in axis.get_ticklocs()) >= 2
        assert draw is law_plots.residuals or ax.get_xlim()[1] / ax.get_xlim()[0] < 1e4
        if draw is budget_plots.iso_loss and np.ptp(fitted.predict(fitted.data)) > 0.01:
            assert len(ax.texts) > 5


def test_minima_far_from_the_runs_are_left_out_and_said():
    """A minimum a thousand times beyond the runs is not drawn; minima of budgets beyond the runs are."""
    far = fit(SIX.assign(loss=lambda t: 2 + 1e4 * t["n_params"] ** -0.3 + t["tokens"] ** -0.3), diagnose=False)
    assert "minimum: not determined by these runs" in lines(budget_plots.isoflop(far))
    good = fit(UNDETERMINED["good"], diagnose=False)
    minimum = lines(budget_plots.isoflop(good, budgets=[1e18, 1e21]))["minimum"]
    np.testing.assert_allclose(minimum[:, 0], [optimum(good, c).n_params.value for c in (1e18, 1e21)])


def test_tables_are_read_from_csv_json_and_json_lines(tmp_path):
    """The three formats give the same rows; another suffix and a damaged file are errors."""
    table = runs()[["n_params", "format", "loss"]]
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_json(tmp_path / "b.json", orient="records")
    table.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    for name in ("a.csv", "b.json", "c.jsonl"):
        read = read_table(tmp_path / name)
        np.testing.assert_allclose(read["loss"], table["loss"])
        assert list(read["format"]) == list(table["format"])
    with pytest.raises(ValueError, match="does not end in .csv, .json, .jsonl"):
        read_table(tmp_path / "d.txt")
    (tmp_path / "e.json").write_text("{")
    with pytest.raises(ValueError, match="e.json cannot be read as a table of runs"):
        read_table(tmp_path / "e.json")
