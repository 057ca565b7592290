"""Sections of the report of a run: one function each, listed in `SECTIONS`."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from compressed_lm import scaling
from compressed_lm.codecs import plots
from compressed_lm.codecs.registry import FAMILIES
from compressed_lm.formatting import duration, si
from compressed_lm.reports.page import Block, Bullets, Figure, Heading, Paragraph, Sample, Table, Tiles
from compressed_lm.scaling import findings as theory

_CLOSE = 1.4  # upper limit of the close-up plot, relative to the lowest bits per byte


@dataclasses.dataclass(frozen=True)
class RunData:
    """Data of a report.

    Attributes:
        runs: the run table, every row.
        models: the final rows of the models that compare codecs (`findings.model_runs`).
        curves: rows of curves.jsonl; may be empty.
        ratios: rows of ratios.jsonl; may be empty.
        stages: (name, seconds, result).
        findings: (claim, verdict, detail).
        meta: description of the run.
        samples: codec -> generated text.
    """

    runs: pd.DataFrame
    models: pd.DataFrame
    curves: pd.DataFrame
    ratios: pd.DataFrame
    stages: Sequence[tuple[str, float, str]]
    findings: Sequence[tuple[str, str, str]]
    meta: Mapping[str, Any]
    samples: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """Duration of all stages (seconds)."""
        return sum(seconds for _, seconds, _ in self.stages)


def summary(data: RunData) -> list[Block]:
    """Returns the key figures and the verdicts."""
    models, findings, meta = data.models, data.findings, data.meta
    best = models.loc[models["bits_per_byte"].idxmin()]
    held = sum(verdict == theory.HOLDS for _, verdict, _ in findings)
    decided = sum(verdict != theory.UNKNOWN for _, verdict, _ in findings)
    tiles = [(f"{best['bits_per_byte']:.3f}", f"bits per byte, the lowest, by `{best['codec']}`")]
    if "validation_bytes" in meta:
        tiles.append((si(float(meta["validation_bytes"]), unit="B"), "of validation text, the same for every codec"))
    if findings:
        tiles.append((f"{held} of {decided}", "predictions of the theory that hold in this run"))
    if data.seconds:
        tiles.append((duration(data.seconds), "for the whole run"))
    blocks: list[Block] = [Tiles(tiles)]
    if findings:
        marks = {theory.HOLDS: "good", theory.FAILS: "bad", theory.UNKNOWN: "none"}
        rows = [(claim, verdict, detail) for claim, verdict, detail in findings]
        blocks += [
            Heading("Findings"),
            Paragraph("Each verdict is computed from the numbers of this run."),
            Table(("Prediction", "Verdict", "Measured"), rows, "lll", marks),
        ]
    return blocks


def compared(data: RunData) -> list[Block]:
    """Returns the codecs that are compared and what their models have in common."""
    models = data.models
    alike = models[models["n_nonembed"] == _common_size(models)]
    fairness = (
        f"All codecs have one with {si(alike['n_nonembed'].iloc[0])} parameters (without embedding tables) that saw "
        f"{si(alike['tokens'].iloc[0])} training tokens; there only the codec differs. A codec with more text per "
        "token therefore shows its model more text, and needs fewer steps for the same text."
        if alike["tokens"].nunique() == 1
        else "Their sizes or their numbers of training tokens differ (see the table of results): compare with care."
    )
    present = {scaling.split_spec(codec)[0] for codec in models["codec"]}
    return [
        Heading("Codecs and models"),
        Paragraph(
            "A codec turns text into the tokens that a language model reads. Every codec here is lossless: it encodes "
            "and decodes any byte string exactly. The models are decoder-only Transformers with the same training. "
            + fairness
        ),
        Bullets([f"`{name}`: {family.summary}." for name, family in FAMILIES.items() if name in present]),
        Paragraph(
            "In a spec such as `eiw(b=12,v=4096)`, v is the vocabulary size and b the number of bits of a window."
        ),
    ]


def results(data: RunData) -> list[Block]:
    """Returns a row per model: large models first, then by bits per byte."""
    models = data.models
    header = ["Codec", "Parameters", "Bytes per token", "Bits per byte", "FLOPs per byte", "with softmax"]
    header += ["Tokens", "Text", "Time"]
    lowest = models["bits_per_byte"].min()
    rows = []
    for _, row in models.sort_values(["n_nonembed", "bits_per_byte"], ascending=[False, True]).iterrows():
        bits = f"{row['bits_per_byte']:.3f}"
        rows.append(
            (
                f"`{row['codec']}`",
                si(row["n_nonembed"]),
                _optional(row, "bytes_per_token", "{:.2f}"),
                f"**{bits}**" if row["bits_per_byte"] == lowest else bits,
                si(row["flops_per_byte"]),
                si(row["flops_per_byte_softmax"]),
                si(row["tokens"]),
                si(row["bytes"], unit="B"),
                duration(row["seconds"]) if row.get("seconds", 0) > 0 else "–",
            )
        )
    text = "Parameters exclude the embedding tables. Tokens and text are those of training. "
    m1 = scaling.final_runs(data.runs)
    m1 = m1[m1["group"] == "m1"] if "group" in m1 else m1[:0]
    if len(m1):
        last = m1.iloc[-1]
        text += f"M1 itself, {si(last['n_nonembed'])} parameters trained on bytes, reaches "
        text += f"{last['bits_per_byte']:.3f} bits per byte."
    return [Heading("Results"), Table(header, rows, "lrrrrrrrr"), Paragraph(text)]


def cost(data: RunData) -> list[Block]:
    """Returns plots of bits per byte against FLOPs per byte: all codecs, close-up, and with softmax."""
    models = data.models
    best = models.groupby("codec")["bits_per_byte"].min().sort_values()
    ceiling = _CLOSE * best.min()
    hidden = [f"`{codec}`" for codec in best.index[best > ceiling]]

    def figure(name: str, caption: str, **options) -> Figure:
        return Figure(name, lambda ax: plots.bits_per_byte_against_flops(models, ax=ax, **options), caption)

    blocks: list[Block] = [
        Heading("Quality against cost"),
        Paragraph(
            "Vertical axis: bits per byte on the validation text; lower is better. Horizontal axis: floating-point "
            "operations of the model per byte of text; further left is cheaper. A line joins the sizes of one codec. "
            "Codecs driven by M1 also include the cost of M1 for every byte. It does not depend on the model, so its "
            "share is largest for small models."
        ),
        figure("bits_per_byte_flops", "All codecs. The softmax is not counted, as in Lester et al. 2024."),
    ]
    if hidden:
        caption = f"Close-up, without codecs above {ceiling:.2f} bits per byte ({', '.join(hidden)})."
        blocks.append(figure("bits_per_byte_flops_close", caption, ceiling=ceiling))
    caption = "With the output softmax: in small models a large vocabulary is a large part of the cost."
    close = {"ceiling": ceiling} if hidden else {}
    return [*blocks, figure("bits_per_byte_flops_softmax", caption, softmax=True, **close)]


def learning(data: RunData) -> list[Block]:
    """Returns bits per byte against training text, for models of the size that all codecs share."""
    models, curves = data.models, data.curves
    if curves.empty:
        return [
            Heading("Learning curves"),
            Paragraph("Not shown: this run recorded no evaluations during training (`curves.jsonl`)."),
        ]
    alike = models[models["n_nonembed"] == _common_size(models)]
    wanted = set(zip(alike["codec"], alike["n_params"], strict=True))
    shown = [key in wanted for key in zip(curves["codec"], curves["n_params"], strict=True)]
    curves = curves[shown] if any(shown) else curves
    return [
        Heading("Learning curves"),
        Figure(
            "learning_curves",
            lambda ax: plots.learning_curves(curves, ax=ax),
            "Validation bits per byte against bytes of training text, both axes logarithmic. At an equal number of "
            "training tokens, a curve of more bytes per token ends further right.",
        ),
    ]


def compression(data: RunData) -> list[Block]:
    """Returns the bytes per token of each codec."""
    ratios = data.ratios
    if ratios.empty:
        return [
            Heading("Compression"),
            Paragraph("Not shown: this run recorded no compression ratios (`ratios.jsonl`)."),
        ]
    return [
        Heading("Compression"),
        Paragraph(
            "Bytes per token on the validation text. In brackets: bits of the tokens per byte of text, "
            "log2(v) / bytes per token (8 / ratio for v = 256). This is the loss of a model that has learned nothing; "
            "the difference to it is what a model has learned."
        ),
        Figure(
            "compression",
            lambda ax: plots.compression_ratios(ratios, ax=ax),
            "Bytes of text per token; hollow bars are word-aligned codecs.",
            (8.8, 0.9 + 0.4 * len(ratios)),
        ),
    ]


def sizes(data: RunData) -> list[Block]:
    """Returns power laws in the model size, if there is more than one size."""
    models = data.models
    fits = list(plots.fits_by_codec(models))
    if not fits:
        return []
    rows = [
        (
            f"`{codec}`",
            str(len(sizes)),
            f"{fit.params['A']:.4g}",
            f"{fit.params['alpha']:.4f}",
            f"{fit.params['E']:.3f}" if fit.law.offset else "0 (fixed)",
            f"{np.abs(fit.residuals).max():.2%}",
            fit.status.replace("_", " "),
        )
        for codec, sizes, _, fit in fits
    ]
    return [
        Heading("Size of the model"),
        Paragraph(
            "The power law `A x^-alpha + E` in the number of parameters without embeddings, fitted to codecs with more "
            "than one model size. With fewer than four sizes the floor E is fixed at 0: a straight line on these axes. "
            "The fit summarises the points. So few points do not determine its error; the dotted ends are no forecast."
        ),
        Figure(
            "sizes",
            lambda ax: plots.fitted_curves(models, ax=ax),
            "Bits per byte against model size, both axes logarithmic.",
        ),
        Table(("Codec", "Sizes", "A", "alpha", "E", "Largest residual", "Fit"), rows, "lrrrrrl"),
    ]


def generated(data: RunData) -> list[Block]:
    """Returns text generated by the models."""
    if not data.samples:
        return []
    text = "Text generated by each model without a prompt, decoded by its codec. Small models write little sense."
    return [
        Heading("Generated text"),
        Paragraph(text),
        *(Sample(f"`{codec}`", sample) for codec, sample in data.samples.items()),
    ]


def measures(data: RunData) -> list[Block]:
    """Returns the definition of each measure."""
    return [
        Heading("Measures"),
        Bullets(
            [
                "**Bits per byte** = total nats / (ln 2 × bytes). The nats are the model's loss summed over every "
                "token of the validation documents, end-of-document tokens included; the bytes are those of the raw "
                "text. Losses per token cannot be compared across codecs; bits per byte can, because all codecs are "
                "evaluated on the same bytes.",
                "**FLOPs per byte** = 2 × parameters without embeddings / bytes per token, plus M1's share, 2 × its "
                "parameters for each byte, if M1 drives the codec: one forward pass, counted as by Lester et al. "
                "2024 (arXiv 2404.03626, section 3.8).",
                "**With softmax**: plus 2 × width × vocabulary for each token.",
                "**Bytes per token** = bytes of raw text / tokens without end-of-document tokens.",
                "At **equal FLOPs per byte**, bits per byte are interpolated linearly in log FLOPs between measured "
                "sizes of a codec. If the costs of two codecs do not overlap, the finding says that it is an "
                "extrapolation.",
            ]
        ),
    ]


def record(data: RunData) -> list[Block]:
    """Returns the stages of the run, their durations, and its settings."""
    blocks: list[Block] = [Heading("Stages and settings")]
    if data.stages:
        rows = [(name, duration(spent), line) for name, spent, line in data.stages]
        rows.append(("**total**", f"**{duration(data.seconds)}**", ""))
        blocks.append(Table(("Stage", "Time", "Result"), rows, "lrl"))
    else:
        blocks.append(Paragraph("The stages of this run were not recorded (`stages.jsonl`)."))
    settings = [(str(name).replace("_", " "), _setting(value)) for name, value in data.meta.items() if name != "title"]
    if settings:
        blocks.append(Table(("Setting", "Value"), settings, "ll"))
    return blocks


SECTIONS: tuple[Callable[[RunData], list[Block]], ...] = (
    summary,
    compared,
    results,
    cost,
    learning,
    compression,
    sizes,
    generated,
    measures,
    record,
)
"""Sections in the order of the report. To add one, write a function and list it here."""


def _common_size(models: pd.DataFrame) -> int | None:
    """Returns the largest number of parameters without embeddings that every codec was trained with."""
    shared = set.intersection(*(set(sizes) for _, sizes in models.groupby("codec")["n_nonembed"]))
    return max(shared, default=None)


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_setting(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _optional(row: pd.Series, name: str, form: str) -> str:
    value = row.get(name, math.nan)
    return form.format(value) if pd.notna(value) else "–"
