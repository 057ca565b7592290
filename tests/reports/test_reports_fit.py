"""Report of a fit: one self-contained HTML file with parameters, warnings, figures and the command."""

import html
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from compressed_lm.reports.fit import page, write_report
from compressed_lm.reports.page import Figure
from compressed_lm.scaling import IdentifiabilityWarning, bootstrap, fit, unified

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28, "F": 0.41, "C": 1.39, "L": 1.0}


def runs():
    """Sizes, tokens and three formats, with losses of a law and a scatter of 0.2 %."""
    formats = (("dense", 0.0), ("int4", 0.0115429), ("int2", 0.118846))
    rows = itertools.product(np.geomspace(1e8, 1e9, 5), (1e18, 1e19, 1e20), formats)
    table = pd.DataFrame([(n, c / (6 * n), *form) for n, c, form in rows])
    table.columns = ["n_params", "tokens", "format", "gmse"]
    return table.assign(loss=unified()(TRUTH, table) * np.exp(0.002 * np.random.default_rng(0).normal(size=len(table))))


@pytest.fixture(scope="module")
def fitted():
    return bootstrap(fit(runs(), "tanh"), samples=100)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time of a report; tests of the text do without."""
    monkeypatch.setattr(Figure, "picture", lambda *_, **__: b"")


def test_the_report_is_one_file_with_parameters_and_command(fitted, tmp_path):
    """The file shows every parameter with its interval, figures and the command, and needs no other file."""
    command = "compressed-lm fit 'a & b.csv' --law tanh --report out.html"
    path = write_report(fitted, tmp_path / "new" / "fit.html", command=command)
    text = path.read_text(encoding="utf-8")
    assert html.escape(command) in text and "loss = A (n_params rho)^-alpha + B tokens^-beta + E" in text
    low, high = fitted.intervals["alpha"]
    assert f"<td>alpha</td><td>{fitted.params['alpha']:.5g}</td><td>{low:.4g} to {high:.4g}</td>" in text
    assert text.count('src="data:image/svg+xml;base64,') == 6 and not re.search(r'(src|href)="(?!data:|#)', text)
    assert '<p class="warning">' not in text and "Best size and data for a budget" in text
    assert page(fitted, command=command, title="x").markdown().count("](figures/") == 6


def test_warnings_and_missing_intervals_are_shown(tmp_path, no_pictures):
    """Warnings of the fit are highlighted; a fit without bootstrap says so."""
    flat = runs().assign(tokens=lambda t: 20 * t["n_params"])
    flat["loss"] = unified()(TRUTH, flat)
    with pytest.warns(IdentifiabilityWarning):
        warned = fit(flat, "decoupled")
    text = write_report(warned, tmp_path / "warned.html", command="x").read_text(encoding="utf-8")
    assert '<p class="warning">tokens is proportional to n_params' in text and "was not bootstrapped" in text


def test_the_report_of_an_undetermined_fit_is_whole(tmp_path):
    """All four figures are drawn, and the table of optima says that they are not determined."""
    data = {"n_params": np.linspace(1e6, 2e6, 6), "tokens": np.array([1.0, 2.2, 1.4, 3.0, 1.8, 2.6]) * 1e8}
    table = pd.DataFrame(data).assign(loss=lambda t: 2 + 400 * t["tokens"] ** -0.3)
    fitted = fit(table, diagnose=False, starts=6)
    text = write_report(fitted, tmp_path / "fit.html", command="x").read_text(encoding="utf-8")
    assert text.count('src="data:image/svg+xml;base64,') == 4 and "not determined" in text
