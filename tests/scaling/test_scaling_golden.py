"""Fits of published run tables give the published numbers, or better ones if those were local optima."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest

from compressed_lm import scaling
from compressed_lm.scaling import FitStatus, bootstrap, fit, sparsity_gmse

INTEGER_GMSE = {1: 0.363380, 2: 0.118846, 3: 0.0374397, 4: 0.0115429, 8: 8.782e-5, 16: 0.0}  # arXiv 2506.01863's grids
QUEST = {"n_params": "non_embedding_parameters"}

# A fit has several things to say where one of them is what a test is about.
pytestmark = pytest.mark.filterwarnings("ignore::compressed_lm.scaling.IdentifiabilityWarning")


@pytest.fixture(scope="module")
def chinchilla(data_dir):
    """The 240 runs fitted by Besiroglu et al. 2024: all except the five largest losses, with D = FLOP / (6 N)."""
    runs = pd.read_csv(data_dir / "scaling_runs" / "chinchilla_245.csv").sort_values("loss").iloc[:-5]
    return runs.assign(tokens=runs["Training FLOP"] / (6 * runs["Model Size"]))


@pytest.fixture(scope="module")
def quest(data_dir):
    """The 104 runs of QuEST with the errors of their grids; `hadamard` marks its full method and the dense runs."""
    runs = pd.read_csv(data_dir / "scaling_runs" / "quest_104.csv")
    full = ["HadamardTrustQuantizer", "HalfHadamardTrustQuantizer", "NoQuantizer"]
    return runs.assign(
        gmse_w=runs["w_bits"].map(INTEGER_GMSE),
        gmse_a=runs["a_bits"].map(INTEGER_GMSE),
        hadamard=runs.w_quant.isin(full),
    )


@pytest.fixture(scope="module")
def t5(data_dir):
    """The 48 sparse T5 runs; `scale` counts all parameters, Frantar et al. count non-zero ones."""
    runs = pd.read_csv(data_dir / "scaling_runs" / "sparse_t5_48.csv")
    return _sparse(runs).rename(columns={"steps": "tokens"})


@pytest.fixture(scope="module")
def vit(data_dir):
    """The 112 sparse ViT runs, as `t5`."""
    runs = scaling.read_table(data_dir / "scaling_runs" / "sparse_vit_112.json")
    return _sparse(runs).rename(columns={"total_examples": "tokens"})


def _sparse(runs):
    nonzero = runs["scale"] * (1 - runs["sparsity"])
    return runs.assign(nonzero=nonzero, gmse=sparsity_gmse(runs["sparsity"]), loss=runs["val-loss"])


def test_chinchilla_comes_out_to_all_published_digits_within_two_seconds(chinchilla):
    """The summed Huber fit of Besiroglu et al. 2024: objective to 1e-9, parameters to at least 4 digits."""
    start = time.process_time()
    result = fit(chinchilla, n_params="Model Size")
    assert time.process_time() - start < 2
    assert result.status == FitStatus.CONVERGED and result.warnings == ()
    assert result.objective == pytest.approx(0.0010182740, abs=1e-9)
    published = {"A": 477.83, "B": 2143.4, "E": 1.81722, "alpha": 0.34731, "beta": 0.36717}
    assert dict(result.params) == pytest.approx(published, rel=2e-5)


def test_chinchilla_by_least_absolute_deviations(chinchilla):
    """With a threshold near 0, the fit is the published one."""
    result = fit(chinchilla, n_params="Model Size", delta=5e-9, diagnose=False)
    published = {"A": 482.006, "B": 2085.436, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585}
    assert result.status == FitStatus.CONVERGED
    assert dict(result.params) == pytest.approx(published, rel=2e-5)


def test_chinchilla_without_exclusion(chinchilla, data_dir):
    """All 245 runs give another fit: A 495.7, B 12846, E 1.8913, .3493, .4531."""
    runs = pd.read_csv(data_dir / "scaling_runs" / "chinchilla_245.csv")
    runs["tokens"] = runs["Training FLOP"] / (6 * runs["Model Size"])
    params = fit(runs, n_params="Model Size", diagnose=False).params
    expected = {"A": 495.7, "B": 12846, "E": 1.8913, "alpha": 0.3493, "beta": 0.4531}
    assert dict(params) == pytest.approx(expected, rel=3e-4)


@pytest.mark.slow("refits thousands of resampled tables")
def test_four_thousand_bootstraps_of_chinchilla_within_a_minute(chinchilla):
    """Intervals and standard errors are those of the replication's own 4,000 bootstraps; N* grows as C^.513 (.020)."""
    start = time.process_time()
    result = bootstrap(fit(chinchilla, n_params="Model Size", diagnose=False), samples=4000)
    assert time.process_time() - start < 60
    published = {
        "A": (285, 744),
        "B": (1042, 5810),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, ends in published.items():
        assert result.intervals[name] == pytest.approx(ends, rel=0.05)
    exponent = scaling.optimum(result, 1e21).exponent
    assert exponent.value == pytest.approx(0.513, abs=0.002) and exponent.sd == pytest.approx(0.020, abs=0.001)
    assert not np.isnan(result.samples["A"]).any()


def test_quest_capacity_with_the_papers_exponents(quest):
    """Product law over the 60 runs of at least 2 bits, alpha .13 and beta .33: the weights' F .408, C 1.414."""
    runs = quest[quest["hadamard"] & (quest["w_bits"] >= 2)]
    assert len(runs) == 60
    result = fit(runs, "tanh", gmse=("gmse_w", "gmse_a"), fixed={"alpha": 0.13, "beta": 0.33}, **QUEST)
    assert result.status == FitStatus.CONVERGED
    assert result.params["F[gmse_w]"] == pytest.approx(0.408, abs=0.005)
    assert result.params["C[gmse_w]"] == pytest.approx(1.414, abs=0.02)


def test_quest_with_one_error_and_free_exponents(quest):
    """Weights and activations alike, 1 to 8 bits: F .434, C 3.42; two parameters fit as well as five capacities."""
    runs = quest[(quest["hadamard"] | (quest["w_quant"] == "HadamardClipQuantizer")) & (quest.w_bits == quest.a_bits)]
    assert len(runs) == 54
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scaling.IdentifiabilityWarning)
        curve = fit(runs, "tanh", gmse="gmse_w", **QUEST)
        free = fit(runs, "decoupled", format="w_bits", reference=16, **QUEST)
    assert (curve.params["F"], curve.params["C"]) == pytest.approx((0.434, 3.42), rel=2e-3)
    rho = curve.rho({"gmse_w": [INTEGER_GMSE[b] for b in (1, 2, 3, 4, 8)]})
    np.testing.assert_allclose(rho, [0.018, 0.158, 0.415, 0.658, 0.981], atol=2e-3)
    np.testing.assert_allclose(rho, [free.params[f"rho[{b}]"] for b in (1, 2, 3, 4, 8)], atol=0.06)


def test_quest_weights_alone_give_a_warning(quest):
    """The weight-only runs all have 100 tokens per parameter, so alpha and rho cannot be distinguished."""
    with pytest.warns(scaling.IdentifiabilityWarning, match="rho cannot be distinguished from a larger alpha"):
        fit(quest[quest["a_quant"] == "NoQuantizer"], "tanh", gmse="gmse_w", **QUEST)


@pytest.mark.parametrize(
    ("law", "options", "mean", "expected"),
    [
        (
            "frantar2023",
            {"n_params": "nonzero"},
            4.880e-6,  # the published optimum has 7.60e-6
            {"b_S": 1.345, "b_N": 0.2317, "b_D": 0.3846, "E": 0.8304},
        ),
        ("tanh", {"n_params": "scale"}, 4.873e-6, {"F": 0.786, "C": 1.186}),
        ("decoupled", {"n_params": "scale", "format": "sparsity", "reference": 0.0}, 4.867e-6, {}),
    ],
)
def test_sparse_t5_reaches_the_better_optimum(t5, law, options, mean, expected):
    """Mean Huber loss of log loss, delta .001, as in the authors' notebook."""
    result = fit(t5, law, diagnose=False, **options)
    assert result.objective / 48 == pytest.approx(mean, abs=5e-10)
    assert {name: result.params[name] for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("law", "options", "mean", "expected"),
    [
        (
            "frantar2023",
            {"n_params": "nonzero"},
            4.929e-4,
            {"b_S": 0.82101251, "b_N": 0.39222675, "b_D": 0.88979104, "E": 4.51669257, "a_D": 2.37e8},
        ),
        ("tanh", {"n_params": "scale"}, 5.388e-4, {"F": 0.643, "C": 0.970}),
        ("decoupled", {"n_params": "scale", "format": "sparsity", "reference": 0.0}, 4.850e-4, {}),
    ],
)
def test_sparse_vit(vit, law, options, mean, expected):
    """Mean Huber loss of the loss itself, delta .01, as in the authors' notebook."""
    result = fit(vit, law, delta=0.01, loss_space="raw", diagnose=False, **options)
    assert result.objective / 112 == pytest.approx(mean, abs=5e-8)
    assert {name: result.params[name] for name in expected} == pytest.approx(expected, rel=2e-3)
