"""The run table, scaling laws fitted to it, and plots of both: NumPy, SciPy, pandas and matplotlib, no accelerator.

from compressed_lm import scaling

runs = scaling.load_runs("runs/*/runs.jsonl")
fit = scaling.fit(scaling.CHINCHILLA, {"n": runs.n_nonembed, "d": runs.bytes}, runs.bits_per_byte)
ax = scaling.plots.bits_per_byte_against_flops(runs)
"""

import importlib

from compressed_lm.scaling.compare import bits_at, compare_at_equal_flops
from compressed_lm.scaling.findings import Finding, check_theory
from compressed_lm.scaling.fit import Fit, FitStatus, fit, fit_power
from compressed_lm.scaling.laws import CHINCHILLA, LINE, POWER, PowerSum
from compressed_lm.scaling.run_table import COLUMNS, append_row, final_runs, load_runs, read_jsonl, split_spec

__all__ = [
    "CHINCHILLA",
    "COLUMNS",
    "LINE",
    "POWER",
    "Finding",
    "Fit",
    "FitStatus",
    "PowerSum",
    "append_row",
    "bits_at",
    "check_theory",
    "compare_at_equal_flops",
    "final_runs",
    "fit",
    "fit_power",
    "load_runs",
    "plots",
    "read_jsonl",
    "split_spec",
]


def __getattr__(name):
    # Training appends rows through this package, so matplotlib (and its font cache) waits until someone plots.
    if name == "plots":
        return importlib.import_module("compressed_lm.scaling.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
