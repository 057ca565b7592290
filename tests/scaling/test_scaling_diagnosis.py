"""A table that does not determine the parameters gives a warning; a good one does not."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from compressed_lm.scaling import IdentifiabilityWarning, fit, unified

TRUTH = {"A": 30.0, "B": 500.0, "E": 1.5, "alpha": 0.2, "beta": 0.3, "F": 0.41, "C": 1.39, "L": 1.0}
FORMATS = {"dense": 0.0, "int4": 0.0115, "int3": 0.0374, "int2": 0.1188}

# A fit has several things to say where one of them is what a test is about.
pytestmark = pytest.mark.filterwarnings("ignore::compressed_lm.scaling.IdentifiabilityWarning")


def runs(ratios, noise=0.003, sizes=(3e7, 6e7, 1.2e8, 2.4e8, 4.8e8)):
    rows = itertools.product(sizes, ratios, FORMATS)
    table = pd.DataFrame([(n, n * r, name, FORMATS[name]) for n, r, name in rows])
    table.columns = ["n_params", "tokens", "format", "gmse"]
    scatter = np.exp(noise * np.random.default_rng(0).normal(size=len(table)))
    return table.assign(loss=unified()(TRUTH, table) * scatter)


@pytest.mark.parametrize("law", ["tanh", "decoupled"])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_tokens_in_proportion_to_size_are_warned_of(law, noise):
    """With D = 100 N, rho cannot be distinguished from alpha, with or without noise in the losses."""
    with pytest.warns(IdentifiabilityWarning, match="rho cannot be distinguished from a larger alpha"):
        result = fit(runs([100], noise), law)
    assert "tokens is proportional to n_params" in result.warnings[0] and "100 to 1" in result.warnings[0]
    assert result.diagnosis.correlation > 0.999 and "warning: tokens is proportional" in result.summary()


@pytest.mark.parametrize("law", ["tanh", "decoupled"])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_good_design_is_not_warned_of(law, noise):
    """With ratios from 25 to 200 there is no warning, and the profile's interval contains the true exponent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        result = fit(runs([25, 50, 100, 200], noise), law)
    assert result.warnings == ()
    low, high = result.diagnosis.interval
    assert low < 0.2 < high and high / low < 1.5


def test_the_exponents_of_a_dense_law_cannot_be_distinguished():
    """Without formats, the message is about size and data."""
    table = runs([100])
    with pytest.warns(IdentifiabilityWarning, match="exponents of size and data cannot be distinguished"):
        fit(table[table["format"] == "dense"], "chinchilla")


def test_a_short_range_of_sizes_leaves_the_exponent_open():
    """Two close sizes with noise: the profile is wide, and the warning gives its ends."""
    with pytest.warns(IdentifiabilityWarning, match="alpha is not determined and with it every capacity"):
        result = fit(runs([25, 100, 400], 0.01, sizes=(1e8, 1.3e8)), "tanh")
    assert result.diagnosis.interval[1] > 3 * result.diagnosis.interval[0]


def test_a_fixed_exponent_needs_no_profile():
    """With alpha given there is no warning, although D is proportional to N."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentifiabilityWarning)
        result = fit(runs([100]), "tanh", fixed={"alpha": 0.2, "beta": 0.3})
    assert result.diagnosis.exponent is None and result.diagnosis.interval is None and result.warnings == ()


def test_the_profile_is_what_a_search_at_fixed_exponents_finds():
    """Twice the drop of the log-likelihood is 0 at the estimate, grows away from it, and agrees with fixed fits."""
    table = runs([25, 50, 100, 200])
    result = fit(table, "tanh", delta=1.0)  # least squares: the ratio is n log(RSS / least RSS)
    values, ratio = result.diagnosis.profile.T
    assert ratio[len(ratio) // 2] == pytest.approx(0, abs=1e-6) and ratio.min() > -1e-6
    k = int(np.argmin(np.abs(ratio - 4)))
    held = fit(table, "tanh", delta=1.0, fixed={"alpha": values[k]}, diagnose=False)
    assert ratio[k] == pytest.approx(len(table) * np.log(held.objective / result.objective), rel=1e-4)
