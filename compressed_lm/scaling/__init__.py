"""Run table, scaling laws, and plots of both; needs NumPy, SciPy, pandas and matplotlib, no JAX and no accelerator.

from compressed_lm import scaling

runs = scaling.load_runs("runs/*/runs.jsonl")          # or any table with sizes, data and losses
runs = runs[runs["codec"] == "bytes"]                  # one codec per law; mixed runs are refused
fit = scaling.fit(runs, "chinchilla", n_params="n_nonembed", tokens="bytes", loss="bits_per_byte")
fit = scaling.bootstrap(fit)
print(fit.summary())
ax = scaling.budget_plots.isoflop(fit)
"""

import importlib
from types import ModuleType

from compressed_lm.scaling.bootstrap import Estimate, band, bootstrap, difference, estimate, loss_at
from compressed_lm.scaling.capacity import effective_bits, rho, sparsity_gmse
from compressed_lm.scaling.compare import bits_at, compare_at_equal_flops
from compressed_lm.scaling.diagnosis import Diagnosis, IdentifiabilityWarning
from compressed_lm.scaling.findings import Finding, check_theory
from compressed_lm.scaling.fit import Fit, FitStatus, fit, fit_power
from compressed_lm.scaling.forecast import Extrapolation, extrapolation
from compressed_lm.scaling.frontier import Optimum, capacity_points, dense_equivalent, optimum
from compressed_lm.scaling.laws import (
    CHINCHILLA,
    FRANTAR_2023,
    LAWS,
    LINE,
    POWER,
    PowerSum,
    frantar2025,
    kumar,
    unified,
)
from compressed_lm.scaling.paired import PairedDifference, paired_difference
from compressed_lm.scaling.run_table import (
    COLUMNS,
    append_row,
    check_table,
    final_runs,
    load_runs,
    split_spec,
)
from compressed_lm.scaling.table_fit import fit_tables
from compressed_lm.scaling.tables import read_table

__all__ = [
    "CHINCHILLA",
    "COLUMNS",
    "FRANTAR_2023",
    "LAWS",
    "LINE",
    "POWER",
    "Diagnosis",
    "Estimate",
    "Extrapolation",
    "Finding",
    "Fit",
    "FitStatus",
    "IdentifiabilityWarning",
    "Optimum",
    "PairedDifference",
    "PowerSum",
    "append_row",
    "check_table",
    "band",
    "bits_at",
    "bootstrap",
    "axes",
    "budget_plots",
    "capacity_points",
    "check_theory",
    "compare_at_equal_flops",
    "dense_equivalent",
    "difference",
    "effective_bits",
    "estimate",
    "extrapolation",
    "final_runs",
    "fit",
    "fit_power",
    "fit_tables",
    "frantar2025",
    "kumar",
    "law_plots",
    "load_runs",
    "loss_at",
    "optimum",
    "paired_difference",
    "read_table",
    "rho",
    "sparsity_gmse",
    "split_spec",
    "unified",
]

_LAZY = ("axes", "budget_plots", "law_plots")


def __getattr__(name: str) -> ModuleType:
    # Training appends rows through this package, so matplotlib (and its font cache) is imported only for plots.
    if name in _LAZY:
        return importlib.import_module(f"compressed_lm.scaling.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
