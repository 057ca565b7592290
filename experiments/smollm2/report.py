"""Tables and a figure of the rows of `weights.py`, as Markdown.

    python experiments/smollm2/report.py experiments/recorded/smollm2

Writes weights.png next to the rows. Intervals are 95 %: the documents are resampled 2,000 times (bootstrap), the same
ones for both formats of a difference.
"""

import argparse
import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from compressed_lm.io import jsonl

KINDS = {
    "step": ("#0072B2", "o", "uniform step, entropy-coded"),
    "int": ("#D55E00", "s", "int, scale for Gaussian weights"),
    "range": ("#E69F00", "P", "int with scale=absmax, outlier"),
    "mx": ("#009E73", "^", "mxfp4, nvfp4"),
    "float8": ("#CC79A7", "D", "e4m3, e5m2, rf8"),
    "deepshape": ("#808080", "X", "DeepShape, and scaled down alike"),
}
"""Colour, marker and label of each kind of storage method."""


def kind_of(way: str) -> str:
    """Returns the kind of a storage method."""
    if "deepshape" in way:
        return "deepshape"
    if "absmax" in way or way.startswith("outlier"):
        return "range"
    return {"step": "step", "int(": "int", "mxfp": "mx", "nvfp": "mx"}.get(way[:4], "float8")


def difference(rows: pd.DataFrame, way: str) -> tuple[float, float, float]:
    """Returns bits per byte of a method less those of float32, and its interval over documents."""
    n_bytes = np.array(rows.loc["float32", "document_bytes"], float)
    extra = np.array(rows.loc[way, "document_bits"]) - np.array(rows.loc["float32", "document_bits"])
    drawn = np.random.default_rng(0).integers(0, len(extra), (2000, len(extra)))
    means = extra[drawn].sum(1) / n_bytes[drawn].sum(1)
    return float(extra.sum() / n_bytes.sum()), *map(float, np.quantile(means, (0.025, 0.975)))


def read(folder: pathlib.Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of rates.jsonl by storage method, and those of shapes.jsonl."""
    rows = pd.DataFrame([row for _, row in jsonl.read(folder / "rates.jsonl")]).set_index("way")
    shapes = pd.DataFrame([row for _, row in jsonl.read(folder / "shapes.jsonl")])
    order = ["weight", "gradient", "output"]
    return rows, shapes.sort_values(
        ["what", "name", "layer"], key=lambda x: x.map(order.index) if x.name == "what" else x
    )


def rate_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns bits per weight and the loss of each storage method, most bits first."""
    found = []
    for way, row in rows.sort_values("bits", ascending=False).iterrows():
        change, low, high = difference(rows, way)
        found.append(
            {
                "stored as": f"`{way}`" if "(" in way or "=" in way else way,
                "bits a weight": f"{row['bits']:.2f}",
                "entropy": "" if np.isnan(row["entropy"]) else f"{row['entropy']:.2f}",
                "EG0": "" if np.isnan(row["eg0"]) else f"{row['eg0']:.2f}",
                "error": f"{row['error']:.2g}",
                "bits per byte": f"{row['bits_per_byte']:.4f}",
                "beside float32": "" if way == "float32" else f"{change:+.4f} ({low:+.4f} to {high:+.4f})",
            }
        )
    return pd.DataFrame(found)


def shape_table(shapes: pd.DataFrame) -> pd.DataFrame:
    """Returns the shapes of weights, gradients and outputs of each matrix: median, lowest and highest of the layers."""
    found = []
    for (what, name), part in shapes.groupby(["what", "name"], sort=False):
        best = part["best"].value_counts()
        found.append(
            {
                "values": what,
                "matrix": name,
                "shape": span(part["shape_mle"]),
                "shape by moments": span(part["shape_moments"]),
                "kurtosis": span(part["kurtosis"]),
                "best family": ", ".join(f"{family} {n}" for family, n in best.items()),
            }
        )
    return pd.DataFrame(found)


def span(values: pd.Series) -> str:
    """Returns the median, and the lowest and the highest value."""
    return "{} ({} to {})".format(*(f"{x:.2f}" if x < 100 else f"{x:.0f}" for x in values.quantile((0.5, 0, 1))))


def draw(rows: pd.DataFrame, shapes: pd.DataFrame, path: pathlib.Path) -> None:
    """Writes the figure: loss against bits per weight, and shapes by layer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    floor = 1e-4
    for kind, (color, marker, label) in KINDS.items():
        part = rows[[kind_of(way) == kind and way != "float32" for way in rows.index]].sort_values("bits")
        if part.empty:
            continue
        changes = np.array([difference(rows, way) for way in part.index])
        mean, low, high = np.maximum(changes, floor).T
        left.errorbar(
            part["bits"],
            mean,
            yerr=(np.maximum(mean - low, 0), np.maximum(high - mean, 0)),
            color=color,
            marker=marker,
            linestyle="-" if kind == "step" else "none",
            label=label,
            capsize=2,
        )
    left.set(yscale="log", xlabel="bits per weight", ylabel="bits per byte above float32")
    left.legend(frameon=False, fontsize=8, loc="upper right")
    left.set_ylim(top=60)
    styles = {"weight": "-", "gradient": ":", "output": "--"}
    colors = plt.get_cmap("tab10")
    names = list(dict.fromkeys(shapes["name"]))
    for i, name in enumerate(names):
        part = shapes[(shapes["name"] == name) & (shapes["what"] == "weight")].sort_values("layer")
        right.plot(part["layer"], part["shape_mle"], color=colors(i), label=name)
    for what in ("gradient", "output"):
        part = shapes[shapes["what"] == what].groupby("layer")["shape_mle"].median()
        right.plot(part.index, part, color="black", linestyle=styles[what], label=f"{what}s, median")
    right.axhline(2, color="#808080", linewidth=0.8)
    right.annotate("Gaussian", (0, 2), textcoords="offset points", xytext=(0, 3), fontsize=8, color="#808080")
    right.set(xlabel="layer", ylabel="shape of the generalized Gaussian", ylim=(0, 2.1))
    right.legend(frameon=False, fontsize=8, ncols=3, loc="lower center")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder of rates.jsonl and shapes.jsonl")
    folder = parser.parse_args().folder
    rows, shapes = read(folder)
    for title, table in (("Formats", rate_table(rows)), ("Shapes", shape_table(shapes))):
        print(f"### {title}\n\n{markdown(table)}\n")
    draw(rows, shapes, folder / "weights.png")
    return 0


def markdown(table: pd.DataFrame) -> str:
    """Returns a table in Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
