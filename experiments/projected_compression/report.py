"""Tables and a figure of results.jsonl, as Markdown: losses of models that were made smaller.

    python experiments/projected_compression/report.py experiments/recorded/projected_compression

Means over seeds; intervals are 95 % of Student's t. Differences are to hard pruning with the same seed and share.
Writes curves.png next to results.jsonl.
"""

import argparse
import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats

from compressed_lm.io import jsonl
from compressed_lm.scaling.axes import finish

COLORS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "black", "#D55E00", "#808080", "#E69F00", "#882255", "#999933")


def chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the grid: for each label and share, those of the learning rate with all seeds."""
    seeds = rows.groupby(["label", "keep", "learning_rate"])["seed"].transform("nunique")
    return rows[seeds == rows["seed"].nunique()]


def interval(values: pd.Series) -> str:
    """Returns mean and half-width over seeds."""
    n = len(values)
    half = values.std(ddof=1) / np.sqrt(n) * scipy.stats.t.ppf(0.975, n - 1) if n > 1 else float("nan")
    return f"{values.mean():+.4f} ± {half:.4f}"


def loss_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns bits per byte, the difference to hard pruning, and costs, by share and method."""
    pruned = rows[rows["label"] == "pruned"].set_index(["keep", "seed"])["bits_per_byte"]
    rows = rows.assign(difference=rows["bits_per_byte"] - rows.set_index(["keep", "seed"]).index.map(pruned).to_numpy())
    found = []
    for keep in sorted(rows["keep"].unique(), reverse=True):
        for label in rows["label"].unique():
            part = rows[(rows["keep"] == keep) & (rows["label"] == label)]
            first = part.iloc[0]
            found.append(
                {
                    "kept": f"{first['kept']:.1%}",
                    "training": label,
                    "rate": f"{first['learning_rate']:g}",
                    "bits per byte": interval(part["bits_per_byte"]).lstrip("+"),
                    "beside pruned": "" if label == "pruned" else interval(part["difference"]),
                    "FLOPs, 1e12": f"{first['flops'] / 1e12:.1f}",
                    "trained, 1e6": f"{first['trainable'] / 1e6:.2f}",
                    "frozen, 1e6": f"{first['frozen'] / 1e6:.2f}",
                }
            )
    return pd.DataFrame(found)


def rate_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns bits per byte for each learning rate, by share and method."""
    tried = rows[(rows["seed"] == rows["seed"].min()) & (rows["steps"] == rows["steps"].min())]
    tried = tried[tried.groupby(["label", "keep"])["learning_rate"].transform("nunique") > 1]
    table = tried.pivot_table(index=["keep", "label"], columns="learning_rate", values="bits_per_byte", sort=False)
    table = table[sorted(table.columns)].map(lambda x: "" if np.isnan(x) else f"{x:.4f}").reset_index()
    return table.rename(columns={"label": "training"} | {x: f"{x:g}" for x in table.columns[2:]})


def figure(rows: pd.DataFrame, path: pathlib.Path) -> None:
    """Plots the training loss against steps: means over seeds, a panel per share."""
    shares = sorted(rows["keep"].unique(), reverse=True)
    fig, axes = plt.subplots(1, len(shares), figsize=(4.6 * len(shares), 4), layout="constrained", squeeze=False)
    for ax, keep in zip(axes[0], shares, strict=True):
        lowest = np.inf
        for k, label in enumerate(rows["label"].unique()):
            curves = [dict(curve) for curve in rows[(rows["keep"] == keep) & (rows["label"] == label)]["curve"]]
            steps = np.array(sorted(curves[0]))
            mean = np.mean([[curve[s] for s in steps] for curve in curves], axis=0) / np.log(2)
            lowest = min(lowest, mean.min())
            ax.plot(steps, mean, color=COLORS[k], linewidth=1.4, label=label)
        ax.set(title=f"{keep:.0%} of the parameters kept", xlabel="steps", ylabel="training loss, bits per byte")
        ax.set_ylim(lowest - 0.05, lowest + 1.5)
        finish(ax)
    for ax in axes[0, :-1]:  # one legend for all panels
        ax.get_legend().remove()
    fig.savefig(path, dpi=110)


def markdown(table: pd.DataFrame) -> str:
    """Returns a table as Markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * len(table.columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of results.jsonl")
    folder = parser.parse_args().folder
    rows = pd.DataFrame([row for _, row in jsonl.read(folder / "results.jsonl")])
    print(markdown(loss_table(chosen(rows))))
    print(f"\n## Learning rates\n\n{markdown(rate_table(rows))}")
    figure(chosen(rows), folder / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
