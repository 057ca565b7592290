"""Runs that differ in compression that the law does not read are refused."""

import itertools
import pathlib
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from compressed_lm import scaling
from compressed_lm.errors import InputError

RECORDED = pathlib.Path(__file__).parents[2] / "experiments" / "recorded" / "capacity" / "runs.jsonl"
TRUTH = {"A": 30.0, "B": 500.0, "E": 1.5, "alpha": 0.2, "beta": 0.3}


def runs(**columns):
    """Eighteen runs of two kinds; each column has the values of the first and of the second kind."""
    rows = list(itertools.product((1e6, 4e6, 1.6e7), (1e7, 1e8, 1e9), (0, 1)))
    table = pd.DataFrame([row[:2] for row in rows], columns=["n_params", "tokens"])
    table["loss"] = scaling.CHINCHILLA(TRUTH, table)
    return table.assign(**{name: [values[row[2]] for row in rows] for name, values in columns.items()})


def fitted(table, law="chinchilla", **options):
    return scaling.fit(table, law, diagnose=False, starts=6, **options)


@pytest.mark.parametrize(
    "column",
    [
        {"weights": ("dense", "int(b=4)")},
        {"activations": ("dense", "int(b=4)")},
        {"representation": ("float32", "float32 weights=int(b=4)")},
        {"codec": ("bytes", "gzip(v=256)")},
        {"packed": (False, True)},
        {"sparsity": (0.0, 0.5)},
        {"w_bits": (16, 4)},
        {"a_bits": (4, 16)},
        {"w_quant": ("NoQuantizer", "TrustQuantizer")},
        {"quantizer": ("a", "b")},
        {"gmse_weights": (0.0, 0.0115)},
        {"activations": (np.nan, "int(b=4)")},
        {"bits_per_weight": (32.0, 4.2)},
    ],
    ids=str,
)
def test_an_unread_column_of_compression_that_varies_is_refused(column):
    """The message names the column and its values; both suggested fixes work."""
    (name,) = column
    with pytest.raises(InputError, match=f"The rows differ in {name} ") as raised:
        fitted(runs(**column))
    where = re.search(r'--where "([^"]*)"', str(raised.value))[1]
    assert fitted(runs(**column).query(where, engine="python")).params == pytest.approx(TRUTH, rel=1e-3)
    lets = re.findall(r'--let "([^"]*)"', str(raised.value))
    table = runs(**column)
    for let in lets:
        table = table.eval(let, engine="python")
    assert fitted(table).params == pytest.approx(TRUTH, rel=1e-3)


def test_columns_that_tell_of_no_compression_may_vary():
    """Different seeds, versions and speeds, and constant columns of compression, are accepted."""
    free = {"seed": (0, 1), "run": ("a", "b"), "step": (1, 2), "versions": ({"x": 1}, {"x": 2}), "seconds": (1.0, 2.0)}
    constant = {"codec": ("bytes",) * 2, "weights": ("int(b=4)",) * 2, "bits_per_weight": (4.2, 4.1)}
    assert fitted(runs(**free, **constant)).params == pytest.approx(TRUTH, rel=1e-3)


def test_what_the_law_reads_or_determines_may_vary():
    """A law of weights accepts other columns of weights, and activations determined by them; not others."""
    both = {"w_bits": (16, 4), "a_bits": (16, 4), "weights": ("dense", "int(b=4)"), "a_quant": ("none", "int")}
    assert np.isfinite(fitted(runs(**both), "decoupled", format="w_bits", reference=16).objective)
    apart = runs(**both).assign(a_bits=[16, 16, 4] * 6)
    with pytest.raises(InputError, match=r"differ in a_bits .*--where \"a_bits == 16\".*--column format=w_bits,a_bits"):
        fitted(apart, "decoupled", format="w_bits", reference=16)
    assert np.isfinite(fitted(apart, "decoupled", format=("w_bits", "a_bits"), reference=16).objective)


def test_the_recorded_table_fitted_as_the_message_says_gives_its_exponent(capsys):
    """All runs together are refused; fitted as suggested, without embeddings, alpha is .381 as in the notebook."""
    from compressed_lm import cli

    command = ["fit", str(RECORDED), "--law", "tanh", "--bootstrap", "0"]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    where = re.search(r'--where "[^"]*"', said)[0]
    assert cli.main([*command, *shlex.split(where)]) in (0, None)
    told = capsys.readouterr()
    assert re.search(r"alpha +0\.381", told.out) and re.search(r"size: +n_nonembed", told.out)
    assert "tables" not in told.err


def test_laws_of_capacity_count_parameters_without_embeddings_unless_told():
    """`n_nonembed` is the size in laws with capacities, `n_params` in others; a given column takes precedence."""
    table = runs(weights=("dense", "int(b=4)")).assign(n_nonembed=lambda t: t["n_params"] / 2)
    assert fitted(table, "decoupled", format="weights").columns["n_params"] == "n_nonembed"
    assert fitted(table, "decoupled", format="weights", n_params="n_params").columns["n_params"] == "n_params"
    assert fitted(table.drop(columns="weights")).columns["n_params"] == "n_params"
