"""The sections of a report, one function each: tables in, blocks of the page out."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from compressed_lm import scaling
from compressed_lm.codecs import plots
from compressed_lm.codecs.registry import FAMILIES
from compressed_lm.reports.page import Block, Bullets, Figure, Heading, Paragraph, Sample, Table, Tiles
from compressed_lm.scaling import findings as theory
from compressed_lm.scaling.formatting import si

_CLOSE = 1.4  # times the lowest bits per byte: what the close-up of the plot shows


def summary(
    models: pd.DataFrame, findings: Sequence[tuple[str, str, str]], meta: Mapping[str, object], seconds: float
) -> list[Block]:
    """The numbers that matter most, and the verdicts."""
    best = models.loc[models["bits_per_byte"].idxmin()]
    held = sum(verdict == theory.HOLDS for _, verdict, _ in findings)
    decided = sum(verdict != theory.UNKNOWN for _, verdict, _ in findings)
    tiles = [(f"{best['bits_per_byte']:.3f}", f"bits per byte, the lowest, by `{best['codec']}`")]
    if "validation_bytes" in meta:
        tiles.append((si(float(meta["validation_bytes"]), unit="B"), "of validation text, the same for every codec"))
    if findings:
        tiles.append((f"{held} of {decided}", "predictions of the theory that hold in this run"))
    if seconds:
        tiles.append((duration(seconds), "for the whole run"))
    blocks = [Tiles(tiles)]
    if findings:
        marks = {theory.HOLDS: "good", theory.FAILS: "bad", theory.UNKNOWN: "none"}
        rows = [(claim, verdict, detail) for claim, verdict, detail in findings]
        blocks += [
            Heading("Findings"),
            Paragraph("Each verdict is computed from the numbers of this run."),
            Table(("Prediction", "Verdict", "Measured"), rows, "lll", marks),
        ]
    return blocks


def compared(models: pd.DataFrame) -> list[Block]:
    """What a codec is, which ones there are, and in what the models are alike."""
    alike = models[models["n_nonembed"] == _common_size(models)]
    fairness = (
        f"All codecs have one with {si(alike['n_nonembed'].iloc[0])} parameters (embedding tables apart) that saw "
        f"{si(alike['tokens'].iloc[0])} training tokens; there only the codec differs. A codec that packs more text "
        "into a token therefore shows its model more text, and needs fewer steps for the same text."
        if alike["tokens"].nunique() == 1
        else "Their sizes or their numbers of training tokens differ; the table of results has both: compare with care."
    )
    present = {scaling.split_spec(codec)[0] for codec in models["codec"]}
    return [
        Heading("What is compared"),
        Paragraph(
            "A language model reads tokens, and a codec decides what a token is. Every codec here is lossless: it "
            "turns any byte string into tokens and back. The models are decoder-only Transformers, trained in one way. "
            + fairness
        ),
        Bullets([f"`{name}`: {family.summary}." for name, family in FAMILIES.items() if name in present]),
        Paragraph(
            "In a spelling such as `eiw(b=12,v=4096)`, v is the number of different tokens and b the bits of a window."
        ),
    ]


def results(runs: pd.DataFrame, models: pd.DataFrame) -> list[Block]:
    """A row per model, the largest models first, the best of each size on top."""
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
    text = "Parameters exclude the embedding tables. Tokens and text are what a model was trained on. "
    m1 = scaling.final_runs(runs)
    m1 = m1[m1["group"] == "m1"] if "group" in m1 else m1[:0]
    if len(m1):
        last = m1.iloc[-1]
        text += f"M1 itself, {si(last['n_nonembed'])} parameters trained on bytes, reaches "
        text += f"{last['bits_per_byte']:.3f} bits per byte."
    return [Heading("Results"), Table(header, rows, "lrrrrrrrr"), Paragraph(text)]


def cost(models: pd.DataFrame) -> list[Block]:
    """Bits per byte against FLOPs per byte: all codecs, close up, and with the softmax."""
    best = models.groupby("codec")["bits_per_byte"].min().sort_values()
    ceiling = _CLOSE * best.min()
    hidden = [f"`{codec}`" for codec in best.index[best > ceiling]]

    def figure(name, caption, **options):
        return Figure(name, lambda ax: plots.bits_per_byte_against_flops(models, ax=ax, **options), caption)

    blocks = [
        Heading("Quality against cost"),
        Paragraph(
            "Up and down: bits per byte on the validation text, so lower is better. Left and right: floating-point "
            "operations that a model spends to read one byte of text, so further left is cheaper. A line joins the "
            "sizes of one codec. Codecs that M1 drives also pay for M1, on every byte; that share does not shrink with "
            "the model, so small models carry it worst."
        ),
        figure("bits_per_byte_flops", "All codecs. The softmax is not counted, as in Lester et al. 2024."),
    ]
    if hidden:
        caption = f"The same, close up: without what lies above {ceiling:.2f} bits per byte ({', '.join(hidden)})."
        blocks.append(figure("bits_per_byte_flops_close", caption, ceiling=ceiling))
    caption = "With the output softmax counted: in small models a large vocabulary is a large part of the cost."
    close = {"ceiling": ceiling} if hidden else {}
    return [*blocks, figure("bits_per_byte_flops_softmax", caption, softmax=True, **close)]


def learning(models: pd.DataFrame, curves: pd.DataFrame) -> list[Block]:
    """Bits per byte against text seen, the models of the size that all codecs share."""
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
            "Validation bits per byte against bytes of text trained on, both axes logarithmic. At one number of "
            "training tokens, a curve ends further right the more text a token holds.",
        ),
    ]


def compression(ratios: pd.DataFrame) -> list[Block]:
    """Bytes per token of each codec."""
    if ratios.empty:
        return [
            Heading("Compression"),
            Paragraph("Not shown: this run recorded no compression ratios (`ratios.jsonl`)."),
        ]
    return [
        Heading("Compression"),
        Paragraph(
            "How much text one token holds, on the validation text. In brackets: the bits that tokens occupy per byte "
            "of text, log2(v) / bytes per token (8 / ratio for v = 256). A model that has learned nothing pays this "
            "much; what it saves below it, it has learned."
        ),
        Figure(
            "compression",
            lambda ax: plots.compression_ratios(ratios, ax=ax),
            "Bytes of text per token; a hollow bar is a word-aligned codec.",
            (8.8, 0.9 + 0.4 * len(ratios)),
        ),
    ]


def sizes(models: pd.DataFrame) -> list[Block]:
    """Power laws in the size of the model, where there is more than one."""
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
            "The power law `A x^-alpha + E` in the number of parameters without embeddings, fitted to the codecs that "
            "were run in more than one size. With fewer than four sizes the floor E is fixed at 0, a straight line on "
            "these axes. It summarises the points; so few cannot tell its error, and the dotted ends are no forecast."
        ),
        Figure(
            "sizes",
            lambda ax: plots.fitted_curves(models, ax=ax),
            "Bits per byte against model size, both axes logarithmic.",
        ),
        Table(("Codec", "Sizes", "A", "alpha", "E", "Largest residual", "Fit"), rows, "lrrrrrl"),
    ]


def generated(samples: Mapping[str, str]) -> list[Block]:
    """Text that the models wrote."""
    if not samples:
        return []
    text = "What each model writes when left alone, decoded by its codec. Small models write odd text."
    return [
        Heading("Generated text"),
        Paragraph(text),
        *(Sample(f"`{codec}`", sample) for codec, sample in samples.items()),
    ]


def measures() -> list[Block]:
    """How each number comes about."""
    return [
        Heading("How it is measured"),
        Bullets(
            [
                "**Bits per byte** = total nats / (ln 2 × bytes). The nats are the model's loss summed over every "
                "token of the validation documents, end-of-document tokens included; the bytes are those of the raw "
                "text. Losses per token cannot be compared across codecs, bits per byte can: all are judged on the "
                "same bytes.",
                "**FLOPs per byte** = 2 × parameters without embeddings / bytes per token, plus M1's share, 2 × its "
                "parameters for each byte, where M1 drives the codec: one forward pass, counted as by Lester et al. "
                "2024 (arXiv 2404.03626, section 3.8).",
                "**With softmax**, 2 × width × vocabulary is added for each token.",
                "**Bytes per token** = bytes of raw text / tokens without the ends of documents.",
                "At **equal FLOPs per byte**, bits per byte are read off straight lines over log FLOPs between the "
                "measured sizes of a codec; where the costs of two codecs do not overlap, the finding says that it "
                "extrapolates.",
            ]
        ),
    ]


def record(stages: Sequence[tuple[str, float, str]], meta: Mapping[str, object], seconds: float) -> list[Block]:
    """Stages, their durations, and the settings of the run."""
    blocks: list[Block] = [Heading("What was run")]
    if stages:
        rows = [(name, duration(spent), line) for name, spent, line in stages]
        blocks.append(
            Table(("Stage", "Time", "What it did"), [*rows, ("**total**", f"**{duration(seconds)}**", "")], "lrl")
        )
    else:
        blocks.append(Paragraph("The stages of this run were not recorded (`stages.jsonl`)."))
    settings = [(str(name).replace("_", " "), _setting(value)) for name, value in meta.items() if name != "title"]
    if settings:
        blocks.append(Table(("Setting", "Value"), settings, "ll"))
    return blocks


def _common_size(models: pd.DataFrame) -> int | None:
    """The largest number of parameters without embeddings that every codec was run with."""
    shared = set.intersection(*(set(sizes) for _, sizes in models.groupby("codec")["n_nonembed"]))
    return max(shared, default=None)


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_setting(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """Seconds as people say them: 41 s, 8 min 44 s, 3 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _optional(row: pd.Series, name: str, form: str) -> str:
    value = row.get(name, math.nan)
    return form.format(value) if pd.notna(value) else "–"
