"""Page and figure of `cramming.py`, also from unfinished work.

python experiments/smollm2/cramming_report.py experiments/recorded/smollm2
"""

import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from compressed_lm.cramming import saved_state, vector_files
from compressed_lm.cramming.metrics import longest_exact_prefix
from compressed_lm.io import jsonl, write_atomic

ROWS, PAGE, FIGURE = "cramming.jsonl", pathlib.Path(__file__).with_name("cramming.md"), "cramming.png"
RESAMPLES = 10_000
PUBLISHED = {
    "Tarasov et al. 2026: SmolLM2-135M, books (PG-19), 50 texts": ((38.5, 14.1), (168.0, 66.0)),
}
"""Tokens and information gain in bits, mean and standard deviation, K = 1 (table 13, learning rate 0.1)."""

FULL = (
    ("Pythia-160M", 80, 70.9, 396.4, 65, 61.3, 500.8),
    ("Mamba-130M", 32, 65.5, 371.4, 84, 62.6, 535.7),
)
"""Kuratov et al. 2025, table 3, K = 1: capacity, token gain and information gain (nats) of books and random words."""

COMPRESSORS = {
    "zlib_bytes": "zlib",
    "bz2_bytes": "bz2",
    "lzma_bytes": "lzma",
    "huffman_bytes": "Huffman",
    "m1_bytes": "`ac`",
    "ac_bytes": "arithmetic coding, this model",
}


def bits(nats: Sequence[float]) -> float:
    """Returns a sum of nats in bits."""
    return sum(nats) / math.log(2)


def measures(row: dict) -> dict[str, float]:
    """Returns the measures of a text; `gain` and `token_gain` are over its restored prefix."""
    n = row["score"]
    return {
        "tokens": n,
        "greedy": longest_exact_prefix(row["greedy"], row["ids"]),
        "right": 100 * float(np.mean(row["right"])),
        "greedy_right": 100 * float(np.mean(np.equal(row["greedy"], row["ids"]))),
        "gain": bits(row["nats_alone"][:n]) - bits(row["nats"][:n]),
        "gain_all": bits(row["nats_alone"]) - bits(row["nats"]),
        "token_gain": sum(row["right"][:n]) - sum(row["right_alone"][:n]),
        "steps": row["steps"],
        "bytes": row["text_bytes"],
    }


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Returns the mean and its 95 % bootstrap interval; texts are resampled."""
    array = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def path_of(stages: np.ndarray) -> tuple[float, int]:
    """Returns the length of the path of vectors [S, K, D], and the principal components with 99 % of its variance."""
    flat = stages.reshape(len(stages), -1)
    length = float(np.linalg.norm(np.diff(flat, axis=0), axis=1).sum())
    variance = np.square(np.linalg.svd(flat - flat.mean(0), compute_uv=False))
    return length, 1 + int(np.searchsorted(np.cumsum(variance) / variance.sum(), 0.99))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, numbers aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(values: Sequence[float], digits: int = 1) -> str:
    """Returns "mean (low to high)"."""
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*interval(values), d=digits)


def figure(cells: dict[str, list[dict]], running: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws tokens and information gain: a point per text, the mean with its interval, and the published values."""
    canvas = Figure(figsize=(9, 3.6), layout="constrained")
    panels: tuple[tuple[str, str, int], ...] = (
        ("tokens", "tokens restored exactly", 0),
        ("gain", "information gain (bits)", 1),
    )
    for ax, (name, label, column) in zip(canvas.subplots(1, 2), panels, strict=True):
        ticks = []
        for text, values in PUBLISHED.items():
            mean, deviation = values[column]
            ax.errorbar([len(ticks)], [mean], [deviation], fmt="s", color="black", capsize=4)
            ticks.append("published\n" + text.split(":")[1].split(",")[0].strip() + "\nmean, s.d.")
        for rows in cells.values():
            found = [measures(row)[name] for row in rows]
            x, (mean, low, high) = len(ticks), interval(found)
            ax.plot(x + np.linspace(-0.15, 0.15, len(found)), found, "o", color="#0072B2", alpha=0.5, markersize=4)
            ax.errorbar([x + 0.3], [mean], [[mean - low], [high - mean]], fmt="D", color="#D55E00", capsize=4)
            ticks.append(f"{rows[0]['source']}\nK = {rows[0]['k']}\n{len(rows)} texts")
        for cell, rows in running.items() if name == "tokens" else ():
            x, found = len(ticks), [row["score"] for row in rows]
            ax.plot(x + np.linspace(-0.15, 0.15, len(found)), found, "^", color="#009E73", markersize=4)
            ticks.append(f"{cell.removeprefix('cramming_').replace('_k', chr(10) + 'K = ')}\nunfinished")
        ax.set_xticks(range(len(ticks)), ticks, fontsize=7)
        ax.set(ylabel=label, ylim=(0, None), xlim=(-0.6, len(ticks) - 0.2))
        ax.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=150)


def results(cells: dict[str, list[dict]]) -> str:
    """Returns the table of finished cells."""
    columns: dict[str, Callable[[list[dict]], str]] = {
        "tokens, teacher-forced": lambda found: shown([m["tokens"] for m in found]),
        "tokens, greedy": lambda found: shown([m["greedy"] for m in found]),
        "information gain, bits": lambda found: shown([m["gain"] for m in found], 0),
        "token gain": lambda found: shown([m["token_gain"] for m in found]),
        "least, most tokens": lambda found: f"{min(m['tokens'] for m in found)}, {max(m['tokens'] for m in found)}",
        "updates": lambda found: shown([m["steps"] for m in found], 0),
    }
    rows = []
    for part in cells.values():
        found = [measures(row) for row in part]
        rows.append([part[0]["source"], str(part[0]["k"]), str(len(part)), *(make(found) for make in columns.values())])
    return table(["texts", "K", "number", *columns], rows)


def sizes(cells: dict[str, list[dict]]) -> str:
    """Returns the table of bytes of the restored prefixes."""
    rows = []
    for part in cells.values():
        total = sum(row["text_bytes"] for row in part)
        mean = lambda name, part=part: sum(row["sizes"][name] for row in part) / len(part)  # noqa: E731
        row = [f"{part[0]['source']}, K = {part[0]['k']}", f"{total / len(part):.0f}", f"{part[0]['vectors_bytes']:,}"]
        rows.append([*row, *(f"{mean(name):.0f}" for name in COMPRESSORS)])
    return table(["texts", "text", "vectors (float32)", *COMPRESSORS.values()], rows)


def paths(cells: dict[str, list[dict]], folder: pathlib.Path) -> str:
    """Returns the table of the paths of the stages' vectors."""
    rows = []
    for cell, part in cells.items():
        if not (folder / f"{cell}.npz").exists():
            continue
        arrays = vector_files.read(folder / f"{cell}.npz")
        stages = [arrays[f"{row['text']}/stage_numbers"] for row in part if f"{row['text']}/stage_numbers" in arrays]
        found = [path_of(each) for each in stages if len(each) > 2]
        if found:
            lengths, components = zip(*found, strict=True)
            label = f"{part[0]['source']}, K = {part[0]['k']}"
            rows.append([label, str(len(found)), shown(lengths, 0), shown(components)])
    published = ["published, K = 1", "50", "178 (s.d. 40)", "12.2 (s.d. 3.0)"]
    return table(["texts", "number", "length of the path", "components with 99 % of the variance"], [published, *rows])


def write(folder: pathlib.Path) -> None:
    """Writes the page, and the figure into the folder of the rows."""
    cells: dict[str, list[dict]] = {}
    if (folder / ROWS).exists():
        for _, row in jsonl.read(folder / ROWS, skip_damaged=True):
            cells.setdefault(row["cell"], []).append(row)
    running = {path.stem: saved_state.summary(path) for path in sorted(folder.glob("cramming_*.state"))}
    running = {name: rows for name, rows in running.items() if name not in cells and rows}
    figure(cells, running, folder / FIGURE)
    text = (pathlib.Path(__file__).with_name("cramming_page.txt")).read_text()
    unfinished = "\n".join(
        f"- `{name}`: not finished. After {max(r['steps'] for r in rows):,} updates the texts restore "
        f"{', '.join(str(r['score']) for r in rows)} tokens ({sum(r['stopped'] for r in rows)} of {len(rows)} have "
        "stopped); the numbers of the others can only rise."
        for name, rows in running.items()
    )
    cost = "\n".join(
        f"- `{name}`: {rows[0]['cpu_seconds'] / 60:.0f} minutes of CPU time on two shared cores, "
        f"{sum(row['steps'] for row in rows):,} updates of {len(rows)} texts."
        for name, rows in cells.items()
    )
    full = [
        [name, str(a), str(b), f"{c / math.log(2):.0f}", str(d), str(e), f"{f / math.log(2):.0f}"]
        for name, a, b, c, d, e, f in FULL
    ]
    header = ["model", "books: capacity", "token gain", "gain, bits", "random words: best", "token gain", "gain, bits"]
    published = [[name, f"{t[0]} ± {t[1]}", f"{g[0]:.0f} ± {g[1]:.0f}"] for name, (t, g) in PUBLISHED.items()]
    parts = {
        "{results}": results(cells) if cells else "No cell is finished yet.",
        "{unfinished}": unfinished,
        "{published}": table(["", "tokens", "information gain, bits"], published),
        "{full}": table(header, full),
        "{sizes}": sizes(cells) if cells else "",
        "{paths}": paths(cells, folder),
        "{cost}": cost,
    }
    for name, value in parts.items():
        text = text.replace(name, value)
    write_atomic(PAGE, text)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
