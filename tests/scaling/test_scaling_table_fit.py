"""Fits from the text options of a command line."""

import itertools

import numpy as np
import pandas as pd
import pytest

from compressed_lm.scaling import fit_tables, unified

TRUTH = {"A": 30.0, "B": 500.0, "E": 1.5, "alpha": 0.2, "beta": 0.3}
RHO = {"rho[4]": 0.8, "rho[2]": 0.4}


@pytest.fixture
def table(tmp_path):
    """Returns two files with sizes, training FLOPs, bits and losses of a decoupled law."""
    rows = itertools.product((3e7, 6e7, 1.2e8, 2.4e8), (25, 100, 400), (16, 4, 2))
    runs = pd.DataFrame([(n, 6 * n * n * ratio, bits) for n, ratio, bits in rows], columns=["Model Size", "C", "bits"])
    rho = runs["bits"].map({16: 1.0, 4: 0.8, 2: 0.4})
    data = {"n_params": runs["Model Size"] * rho, "tokens": runs["C"] / 6 / runs["Model Size"], "gmse": rho * 0}
    runs["val"] = unified()(TRUTH | {"F": 1.0, "C": 1.0, "L": 1.0}, data)
    runs.iloc[::2].to_csv(tmp_path / "a.csv", index=False)
    runs.iloc[1::2].to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    return [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")]


WORDS = {
    "columns": ["n_params=Model Size", "loss=val", "format=bits"],
    "let": ["tokens = C / (6 * `Model Size`)"],
    "reference": "16",
}


def test_a_table_with_other_names_is_fitted(table):
    """Text options give column names, computed columns, the reference format and intervals."""
    result = fit_tables(table, "decoupled", samples=20, **WORDS)
    assert {name: result.params[name] for name in TRUTH | RHO} == pytest.approx(TRUTH | RHO, rel=1e-4)
    assert set(result.intervals) == set(result.params)


def test_rows_are_chosen_and_parameters_fixed(table):
    """`where` keeps rows, `fixed` holds and frees."""
    words = {**WORDS, "columns": [*WORDS["columns"][:2]], "reference": None}
    result = fit_tables(table, where="bits == 16", fixed=["alpha=0.2"], **words)
    assert len(result.residuals) == 12 and dict(result.fixed) == {"alpha": 0.2}
    words["let"] = [*words["let"], "gmse = @sparsity_gmse(1 - bits / 16)"]
    freed = fit_tables(table, "tanh", fixed=["L=free"], **words)
    assert freed.fixed == {} and np.isfinite(freed.objective)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"columns": ["loss"]}, "'loss' was given for a column. Expected NAME=VALUE"),
        ({"fixed": ["alpha=low"]}, "alpha=low was given. Expected a number, or free"),
        ({"where": "nothing == 3"}, "'nothing == 3' cannot be evaluated on the table"),
        ({"let": ["C / 6"]}, "names no column. Expected COLUMN = EXPRESSION"),
    ],
)
def test_words_that_cannot_be_used_are_named(table, words, message):
    """Each kind of option has its error message."""
    with pytest.raises(ValueError, match=message):
        fit_tables(table, **words)
