"""Tables and the figure of results.jsonl, as Markdown.

    python experiments/beat_subword/report.py experiments/recorded/beat_subword

Bits per byte are means over seeds; intervals are 95 % over seeds and documents (`scaling.paired_difference`), or only
over documents if a method has one seed. Differences are to the best subword method of the same vocabulary size. Writes
bits_per_byte.png next to results.jsonl. For several folders, whose models were trained on increasing amounts of text:

    python experiments/beat_subword/report.py experiments/recorded/beat_subword experiments/recorded/beat_subword/text_*

prints the gain of `pieces` over SentencePiece for each amount of text, and writes growth.png to the first folder.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import protocol

from compressed_lm import scaling
from compressed_lm.scaling.axes import finish

SUBWORDS = ("sentencepiece", "sentencepiece, BPE", "byte-level BPE")
STYLES = {
    "sentencepiece": ("#E69F00", "s"),
    "sentencepiece, BPE": ("#D55E00", "D"),
    "byte-level BPE": ("#CC79A7", "^"),
    "eiw": ("#0072B2", "o"),
    "pieces": ("#009E73", "*"),
    "pieces, marks within": ("#56B4E9", "P"),
}
TEXTS = {"c4": "C4", "mixed": "mixed"}
FAR = 2.7  # bits per byte: end of the axes, so that close values are distinguishable
# The rules of `pieces` were chosen in trials measured on the first documents of each validation text: this many bytes,
# long documents cut.
TRIAL_BYTES, TRIAL_LONGEST = 400_000, 20_000


class Results:
    """Models at the best learning rates, and the bits of each document.

    Args:
        folder: folder with results.jsonl and bits/, written by run.py.
    """

    def __init__(self, folder: pathlib.Path):
        self.all = scaling.read_table(folder / "results.jsonl")
        validated = self.all[self.all["bits_per_byte"].map(bool)]
        # Some models were validated before all learning rates had been tried; only those at the best rate count.
        ordered = validated.sort_values(["seed", "dev_bits_per_byte"])
        best = ordered.groupby(["v", "method"])["learning_rate"].transform("first")
        self.rows = validated[validated["learning_rate"].eq(best)].copy()
        for text in TEXTS:
            self.rows[text] = [bits[text] for bits in self.rows["bits_per_byte"]]
        self._folder = folder / "bits"

    def bits(self, method: str, v: int, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns bits float64[seeds, D] and bytes int64[D] of the documents of a text."""
        rows = self.rows[(self.rows["method"] == method) & (self.rows["v"] == v)].sort_values("seed")
        names = [protocol.run_name(r.codec, r.learning_rate, r.seed) for r in rows.itertuples()]
        arrays = [np.load(self._folder / f"{name}.npz") for name in names]
        return np.stack([a[f"{text}_bits"] for a in arrays]), arrays[0][f"{text}_n"]

    def difference(
        self, method: str, other: str, v: int, text: str, *, other_v: int | None = None, untouched: bool = False
    ) -> scaling.PairedDifference:
        """Returns bits per byte of `method` minus those of another, on all documents or those unused in trials."""
        bits, n_bytes = self.bits(method, v, text)
        first = np.searchsorted(np.cumsum(np.minimum(n_bytes, TRIAL_LONGEST)), TRIAL_BYTES) + 1 if untouched else 0
        other_bits = self.bits(other, other_v or v, text)[0]
        return scaling.paired_difference(bits[:, first:], other_bits[:, first:], n_bytes[first:])

    def interval(self, method: str, v: int, text: str) -> scaling.PairedDifference:
        """Returns the bits per byte of a method, with its interval."""
        bits, n_bytes = self.bits(method, v, text)
        return scaling.paired_difference(bits, np.zeros_like(bits), n_bytes)

    def sizes(self) -> list[int]:
        """Returns the vocabulary sizes."""
        return sorted(self.rows["v"].unique())

    def methods(self, v: int) -> list[str]:
        """Returns the methods trained at a size."""
        trained = set(self.rows[self.rows["v"] == v]["method"])
        return [method for method in STYLES if method in trained]

    def best_subword(self, v: int) -> str | None:
        """Returns the subword method with the lowest sum over the texts."""
        found = {
            m: self.rows[(self.rows["method"] == m) & (self.rows["v"] == v)][list(TEXTS)].mean().sum()
            for m in self.methods(v)
            if m in SUBWORDS
        }
        return min(found, key=found.get) if found else None


def table(results: Results) -> pd.DataFrame:
    """Returns a row for each size and method."""
    found = []
    for v in results.sizes():
        best = results.best_subword(v)
        for method in results.methods(v):
            rows = results.rows[(results.rows["v"] == v) & (results.rows["method"] == method)]
            first = rows.iloc[0]
            row = {
                "v": f"{v:,}",
                "method": method,
                "bytes per token": f"{first['bytes_per_token']:.2f}",
                "d_ff": first["d_ff"],
                "FLOPs per byte": f"{first['flops_per_byte_softmax'] / 1e6:.3f}M",
                "training FLOPs": f"{first['training_flops']:.2e}",
                "rate": f"{first['learning_rate']:g}",
                "seeds": len(rows),
            }
            for text, name in TEXTS.items():
                row[f"{name}: bits per byte"] = f"{rows[text].mean():.4f}"
                if best and method != best:
                    d = results.difference(method, best, v, text)
                    row[f"{name}: less best subword"] = cell(d)
                else:
                    row[f"{name}: less best subword"] = "(best subword)" if best else ""
            found.append(row)
    return pd.DataFrame(found)


def untouched(results: Results) -> pd.DataFrame:
    """Returns the difference of `pieces` to the best subword method, on the documents unused in trials."""
    found = []
    for v in results.sizes():
        for method in [m for m in results.methods(v) if m.startswith("pieces")]:
            row = {"v": f"{v:,}", "method": method}
            for text, name in TEXTS.items():
                d = results.difference(method, results.best_subword(v), v, text, untouched=True)
                row[f"{name}: less best subword"] = cell(d)
            found.append(row)
    return pd.DataFrame(found)


def pairs(results: Results) -> pd.DataFrame:
    """Returns differences of `pieces`: between both forms, to byte-level BPE, and to SentencePiece of the next size."""
    sizes = results.sizes()
    chosen = [("pieces", v, "pieces, marks within", v) for v in sizes]
    chosen += [
        (form, v, "byte-level BPE", v) for v in sizes for form in results.methods(v) if form.startswith("pieces")
    ]
    chosen += [("pieces", v, "sentencepiece", more) for v, more in zip(sizes, sizes[1:], strict=False)]
    found = []
    for method, v, other, other_v in chosen:
        row = {"method": f"{method}, {v:,}", "less": f"{other}, {other_v:,}"}
        row |= {name: cell(results.difference(method, other, v, t, other_v=other_v)) for t, name in TEXTS.items()}
        found.append(row)
    return pd.DataFrame(found)


def rates(results: Results) -> pd.DataFrame:
    """Returns the bits per byte of held-out training text for each learning rate."""
    swept = results.all[results.all["seed"] == results.all["seed"].min()]
    wide = swept.pivot_table(index=["v", "method"], columns="learning_rate", values="dev_bits_per_byte", sort=False)
    wide = wide[sorted(wide.columns)].map(lambda x: "" if np.isnan(x) else f"{x:.4f}").reset_index()
    return wide.rename(columns={x: f"{x:g}" for x in wide.columns[2:]})


def growth(records: Sequence[Results], v: int) -> tuple[pd.DataFrame, dict[tuple[str, str], list[tuple]]]:
    """Computes the gain of `pieces` over SentencePiece for increasing amounts of text.

    Returns:
        The table, and for each method and text the gains as (MB, estimate).
    """
    rows, gains = [], {}
    for results in sorted(records, key=lambda r: r.all["bytes"].max()):
        for method in results.methods(v):
            if method != "sentencepiece" and not method.startswith("pieces"):
                continue
            models = results.rows[(results.rows["v"] == v) & (results.rows["method"] == method)]
            first = models.iloc[0]
            row = {
                "text": f"{first['bytes'] / 1e6:.0f} MB",
                "method": method,
                "tokens for each parameter": f"{first['tokens'] / first['n_nonembed']:.1f}",
                "rate": f"{first['learning_rate']:g}",
                "seeds": len(models),
            }
            for text, name in TEXTS.items():
                row[f"{name}: bits per byte"], row[f"{name}: less sentencepiece"] = f"{models[text].mean():.4f}", ""
                if method != "sentencepiece":
                    d = results.difference(method, "sentencepiece", v, text)
                    row[f"{name}: less sentencepiece"] = cell(d)
                    gains.setdefault((method, text), []).append((first["bytes"] / 1e6, d))
            rows.append(row)
    return pd.DataFrame(rows), gains


def growth_figure(gains: dict[tuple[str, str], list[tuple]], path: pathlib.Path) -> None:
    """Plots the gain against the amount of training text, with intervals."""
    fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for (method, text), points in gains.items():
        y = np.array([d.value for _, d in points])
        spread = [y - [d.low for _, d in points], [d.high for _, d in points] - y]
        color, marker = STYLES[method]
        style = dict(color=color, marker=marker, ls="-" if text == "c4" else "--", lw=1.2, capsize=3)
        ax.errorbar([mb for mb, _ in points], y, spread, label=f"{method}, {TEXTS[text]}", **style)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xscale="log", xlabel="MB of text trained on", ylabel="bits per byte beside SentencePiece")
    shown = sorted({mb for points in gains.values() for mb, _ in points})
    ax.set_xticks(shown, [f"{mb:.0f}" for mb in shown])
    ax.set_xticks([], minor=True)
    finish(ax)
    fig.savefig(path, dpi=150)


def cell(d: scaling.PairedDifference) -> str:
    """Returns a difference with its interval, and a note if the interval is over documents only."""
    return f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]" + ("" if d.over_seeds else " (documents only)")


def markdown(frame: pd.DataFrame) -> str:
    """Returns a table as Markdown."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def label_points(ax, points: dict[str, list[tuple[float, float, int]]]) -> None:
    """Ends the axis of bits per byte at FAR, labels points beyond it, and labels the sizes at the other end.

    Args:
        ax: axes with the points.
        points: method -> (x, bits per byte, v).
    """
    style = dict(textcoords="offset points", fontsize=8)
    bottom = min(bits for of_method in points.values() for _, bits, _ in of_method) - 0.1
    ax.set_ylim(bottom)
    ax.margins(x=0.1)
    for v, x in {v: x for of_method in points.values() for x, _, v in of_method}.items():
        ax.annotate(f"v = {v:,}", (x, bottom), (0, 4), ha="center", **style)
    for method, of_method in points.items():
        for x, bits, v in of_method:
            if bits > FAR:
                ax.set_ylim(top=FAR)
                text, color = f"{method}, v = {v:,}: {bits:.2f} $\\uparrow$", STYLES[method][0]
                left = x < np.mean(ax.get_xlim())
                ax.annotate(text, (x, FAR), (0, -4), ha="left" if left else "right", va="top", color=color, **style)


def figure(results: Results, path: pathlib.Path) -> None:
    """Plots bits per byte against FLOPs per byte, a panel per text, with intervals."""
    fig, axes = plt.subplots(1, len(TEXTS), figsize=(11, 4.6), layout="constrained")
    for ax, (text, name) in zip(axes, TEXTS.items(), strict=True):
        drawn = {}
        for method, (color, marker) in STYLES.items():
            points = []
            for v in results.sizes():
                of_method = results.rows[(results.rows["v"] == v) & (results.rows["method"] == method)]
                if len(of_method):
                    points.append((of_method["flops_per_byte_softmax"].mean(), results.interval(method, v, text), v))
            if not points:
                continue
            x = [cost for cost, _, _ in points]
            y = np.array([e.value for _, e, _ in points])
            spread = [y - [e.low for _, e, _ in points], [e.high for _, e, _ in points] - y]
            style = dict(color=color, marker=marker, ms=9 if marker == "*" else 6, lw=1.2, capsize=3, elinewidth=0.8)
            ax.errorbar(x, y, spread, label=method, **style)
            drawn[method] = [(cost, e.value, v) for cost, e, v in points]
        ax.set(xscale="log", xlabel="FLOPs per byte, output layer included", title=f"{name} validation")
        ax.set_ylabel("bits per byte")
        label_points(ax, drawn)
        finish(ax)
    axes[0].get_legend().remove()
    fig.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    folder, *others = arguments.folder
    results = Results(folder)
    if others:
        found, gains = growth([results, *map(Results, others)], min(results.sizes()))
        print(markdown(found))
        growth_figure(gains, folder / "growth.png")
        return 0
    print(markdown(table(results)), end="\n\n")
    print(markdown(untouched(results)), end="\n\n")
    print(markdown(pairs(results)), end="\n\n")
    print(markdown(rates(results)))
    figure(results, folder / "bits_per_byte.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
