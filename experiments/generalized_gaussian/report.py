"""Tables and figures of curves.jsonl, as Markdown: loss against bits per weight, and the cost of pruning.

    python experiments/generalized_gaussian/report.py experiments/recorded/generalized_gaussian

Means over seeds; intervals are 95 % of Student's t. Losses are compared with the run of the same seed, codec
and length that was trained without a penalty. Writes rate.png and pruning.png next to curves.jsonl.
"""

import argparse
import pathlib
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats

from compressed_lm import scaling, specs
from compressed_lm.scaling.axes import finish
from compressed_lm.training import penalties

COLORS = {"none": "black", "weight decay": "#808080", "l1": "#E69F00", "prox": "#0072B2", "loss": "#D55E00"}
COLORS |= {"decoupled": "#009E73", "init": "#CC79A7"}
SHOWN_STEP = "step=0.5std"


def read(folder: pathlib.Path) -> pd.DataFrame:
    """Returns the rows with columns `arm`, `strength` and `excess` (bits per byte above the plain run's floats)."""
    runs = scaling.read_table(folder / "curves.jsonl")
    runs["arm"], runs["strength"] = zip(
        *map(_arm, runs["penalty"], runs["weight_decay"], runs["init_shape"]), strict=True
    )
    keys = ["codec", "tokens", "n_nonembed", "seed"]
    plain = runs[(runs["arm"] == "none") & (runs["way"] == "float32")].set_index(keys)["bits_per_byte"]
    runs["excess"] = runs["bits_per_byte"] - runs.set_index(keys).index.map(plain).to_numpy()
    return runs


def _arm(penalty, weight_decay, init_shape):
    rule = penalties.penalty(penalty)
    if init_shape:
        return "init", f"shape {init_shape:g}" + (f", prox {rule.rate:g}" if rule else "")
    if rule is None:
        return ("none", "") if weight_decay == 0.1 else ("weight decay", f"{weight_decay:g}")
    return ("l1" if rule.shape == 1 else rule.arm), specs.text(rule.rate)


def over_seeds(runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Returns means over seeds and half-widths of intervals, as columns (name, mean) and (name, half)."""
    groups = runs.groupby(["codec", "arm", "strength", "way"], sort=False)[columns]
    mean, sd, n = groups.mean(), groups.std(ddof=1), groups.count()
    half = sd / np.sqrt(n) * scipy.stats.t.ppf(0.975, np.maximum(n - 1, 1))
    return pd.concat({"mean": mean, "half": half}, axis=1).swaplevel(axis=1).sort_index(axis=1)


def rate_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns bits, entropy, EG0, zeros and loss of each training, as floats and with a coarse step."""
    table = over_seeds(runs[runs["way"].isin(["float32", SHOWN_STEP])], ["bits", "entropy", "eg0", "zeros", "excess"])
    rows = []
    for (codec, arm, strength), part in table.groupby(level=[0, 1, 2], sort=False):
        part = part.droplevel([0, 1, 2])
        floats, step = part.loc["float32"], part.loc[SHOWN_STEP]
        rows.append(
            {
                "codec": codec,
                "training": f"{arm} {strength}".strip(),
                "floats": _pm(floats, "excess", 3, sign=True),
                "quantised": _pm(step, "excess", 3, sign=True),
                "bits": _pm(step, "bits", 2),
                "EG0": f"{step['eg0', 'mean']:.2f}",
                "zeros": f"{step['zeros', 'mean']:.0%}",
            }
        )
    return pd.DataFrame(rows)


def way_table(runs: pd.DataFrame, ways: list[str], arms: list[tuple[str, str]]) -> pd.DataFrame:
    """Returns bits per weight and excess loss of storage methods, for some trainings."""
    table = over_seeds(runs[runs["way"].isin(ways)], ["bits", "excess"])
    rows = []
    for (codec, arm, strength, way), row in table.iterrows():
        if (arm, strength) in arms:
            name = f"{arm} {strength}".strip()
            rows.append((codec, name, way, _pm(row, "bits", 2), _pm(row, "excess", 3, sign=True)))
    return pd.DataFrame(rows, columns=["codec", "training", "way", "bits", "loss"])


def frontier_table(runs: pd.DataFrame, limits: tuple[float, ...]) -> pd.DataFrame:
    """Returns the fewest bits per weight within each loss limit, for each kind of training.

    The minimum is over all strengths and uniform steps whose loss is at most the limit above the plain run's.
    """
    table = over_seeds(runs[runs["way"].str.startswith("step=")], ["bits", "excess"])
    rows = []
    for (codec, arm), part in table.groupby(level=[0, 1], sort=False):
        row = {"codec": codec, "training": arm}
        for limit in limits:
            good = part[part["excess", "mean"] <= limit]
            best = good["bits", "mean"].idxmin() if len(good) else None
            text = "none" if best is None else f"{good['bits', 'mean'].min():.2f} ({best[2]}, {best[3]})"
            row[f"up to +{limit}"] = text.replace("(, ", "(")
        rows.append(row)
    return pd.DataFrame(rows)


def pruning_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the loss above the plain run's after setting shares of the weights of each matrix to zero."""
    ways = ["float32", *(way for way in runs["way"].unique() if re.fullmatch(r"prune=[\d.]+", way))]
    table = over_seeds(runs[runs["way"].isin(ways)], ["excess"])
    rows = []
    for (codec, arm, strength), part in table.groupby(level=[0, 1, 2], sort=False):
        part = part.droplevel([0, 1, 2])
        cells = {way.replace("prune=", ""): _pm(part.loc[way], "excess", 3, sign=True) for way in ways}
        rows.append({"codec": codec, "training": f"{arm} {strength}".strip(), **cells})
    return pd.DataFrame(rows).rename(columns={"float32": "none"})


def _pm(row, name, digits, *, sign=False):
    value, half = row[name, "mean"], row[name, "half"]
    return f"{value:{'+' if sign else ''}.{digits}f}" + (f" ± {half:.{digits}f}" if np.isfinite(half) else "")


def rate_figure(runs: pd.DataFrame, path: pathlib.Path) -> None:
    """Plots loss against bits, a line per training over its steps; initial shapes have a separate panel."""
    table = over_seeds(runs[runs["way"].str.startswith("step=")], ["bits", "excess"])
    arms = table.index.get_level_values("arm")
    panels = {codec: table[arms != "init"].loc[codec] for codec in runs["codec"].unique()}
    for codec in table[arms == "init"].index.unique("codec"):
        panels[f"{codec}, initial shapes with and without prox"] = table[arms.isin(["none", "init"])].loc[codec]
    fig, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.4), layout="constrained", squeeze=False)
    for ax, (title, shown) in zip(axes[0], panels.items(), strict=True):
        for arm, part in shown.groupby(level=0, sort=False):
            for k, (_, line) in enumerate(part.droplevel(0).groupby(level=0, sort=False)):
                line = line.sort_values(("bits", "mean"))
                ax.errorbar(
                    line["bits", "mean"],
                    line["excess", "mean"],
                    yerr=line["excess", "half"],
                    color=COLORS[arm],
                    alpha=1 if arm == "none" else 0.75,
                    elinewidth=0.5,
                    linewidth=2 if arm == "none" else 1,
                    marker="os^Dv"[k % 5],
                    markersize=4,
                    capsize=1.5,
                    label=arm if k == 0 else None,
                )
        ax.set(title=title, xlabel="bits per weight, range coder", ylabel="bits per byte above the plain run")
        low = shown["excess", "mean"].min()
        ax.set_ylim(low - 0.01, 0.25)
        ax.set_xlim(0, 5.2)
        finish(ax)
    fig.savefig(path, dpi=110)


def pruning_figure(runs: pd.DataFrame, path: pathlib.Path) -> None:
    """Plots loss against the share of weights set to zero after training, a line per training."""
    found = runs[runs["way"].str.fullmatch(r"prune=[\d.]+") | (runs["way"] == "float32")].copy()
    found["pruned"] = found["way"].str.extract(r"prune=([\d.]+)")[0].astype(float).fillna(0)
    fig, ax = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    found = found[found["codec"] == found["codec"].iloc[0]]
    for (arm, strength), part in found.groupby(["arm", "strength"], sort=False):
        if arm == "init":
            continue
        mean = part.groupby("pruned")["excess"].mean()
        ax.plot(100 * mean.index, mean, marker="o", markersize=3, color=COLORS[arm], alpha=0.8)
        ax.annotate(strength, (90, mean.iloc[-1]), xytext=(3, -2), textcoords="offset points", fontsize="x-small")
    for arm in found["arm"].unique():
        ax.plot([], [], color=COLORS[arm], label=arm)
    ax.set(xlabel="smallest weights of each matrix set to zero (%)", ylabel="bits per byte above the plain run")
    ax.set_ylim(-0.05, 1.2)
    finish(ax)
    fig.savefig(path, dpi=110)


def markdown(table: pd.DataFrame) -> str:
    """Returns a table as Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of curves.jsonl")
    folder = parser.parse_args().folder
    runs = read(folder)
    print(markdown(rate_table(runs)))
    print(f"\n## Fewest bits for a loss\n\n{markdown(frontier_table(runs, (0.03, 0.05, 0.1)))}")
    print(f"\n## Pruned after training\n\n{markdown(pruning_table(runs))}")
    plain = [("none", "")]
    formats = [way for way in runs["way"].unique() if way.startswith(("int", "e4m3", "e5m2", "rf8"))]
    steps = [way for way in runs["way"].unique() if way.startswith("step=")]
    shaped = ["deepshape", "scaled as by deepshape", "step=0.25std", "step=0.5std"]
    for title, ways, arms in (
        ("Formats and steps after plain training", [*formats, *steps], plain),
        ("DeepShape, a plain scale-down, a coarser step", shaped, plain),
        ("8-bit floats after BackSlash", [*formats[-4:], "float32"], [*plain, ("init", "shape 1, prox 2")]),
    ):
        print(f"\n## {title}\n\n{markdown(way_table(runs, ways, arms))}")
    rate_figure(runs, folder / "rate.png")
    pruning_figure(runs, folder / "pruning.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
