"""Report of a cramming study: tables, figures, and definitions of the measures."""

import json
import math
import os
import pathlib
from typing import Any

import pandas as pd

from compressed_lm.cramming.study import CELLS, PATHS, RESULTS, SETTINGS, read_rows, read_settings
from compressed_lm.errors import InputError
from compressed_lm.io import any_path, write_atomic
from compressed_lm.reports import cramming_figures, cramming_tables
from compressed_lm.reports.cramming_findings import KEPT_GAIN, findings
from compressed_lm.reports.page import Block, Bullets, Heading, Page, Paragraph, Table

MEASURES = (
    "**Accuracy** is the share of tokens that are the model's most likely ones given the true previous tokens (teacher "
    "forcing), including the first token, which the last vector predicts. **Exact** is the share of texts that greedy "
    "decoding from the vectors reproduces without error.",
    "**Capacity** is the largest length of the grid with a mean accuracy of at least 0.99; **greedy capacity** is the "
    "same with the share of exact texts. Their intervals are bootstrap percentiles over texts.",
    "**Token gain** is the number of correct tokens with the vectors minus the number after end-of-document. "
    "**Information gain** is the difference of the two code lengths, in bits. Both are means over the texts above "
    "capacity in float32 (accuracy of at most 0.99): other texts have no more to gain. Intervals are 95 % of "
    "Student's t. **Kept** is the share of the texts that are exact in float32 and still exact in this format.",
    "**Utilisation** is the token gain divided by the tokens that all numbers of the vectors could encode at 16 bits "
    "each, as in the paper; the vectors here have the bits of their format.",
    f"A format keeps the gain if it has at least {KEPT_GAIN:.0%} of the gain in float32, on the same texts.",
    "**Bytes** of vectors are those of the packed numbers and their scales, without the file header.",
)


def write_report(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Writes report.html, report.md, figures and CSV tables into the folder of a study, and returns their paths.

    The tables are summary.csv, formats.csv, curves.csv and sizes.csv.

    Raises:
        InputError: the folder holds no study, or a study without a finished cell.
    """
    folder = any_path(folder, "The folder of the study")
    rows = read_rows(folder / RESULTS)
    if not rows or not (folder / SETTINGS).exists():
        raise InputError(f"{folder} holds no rows of a study. Give the --out folder of `compressed-lm cram-study`.")
    settings = read_settings(folder)
    table, vocab_size = cramming_tables.frame(rows), settings["vocab_size"]
    tables = {
        "summary": cramming_tables.summary(table, vocab_size=vocab_size),
        "formats": cramming_tables.formats(table, vocab_size=vocab_size),
        "curves": cramming_tables.curves(table),
        "sizes": cramming_tables.sizes(table),
    }
    paths = []
    for name, frame in tables.items():
        paths.append(folder / f"{name}.csv")
        write_atomic(paths[-1], frame.to_csv(index=False, float_format="%.6g"))
    cells, between = (pd.DataFrame(read_rows(folder / name)) for name in (CELLS, PATHS))
    said = findings(tables["summary"], tables["formats"])
    blocks: list[Block] = [Heading("Findings"), Bullets(said)] if said else []
    blocks += [
        Heading("Capacity and gains"),
        _summary(tables["summary"]),
        *cramming_figures.of_gains(tables["curves"], tables["summary"]),
        Heading("Lengths"),
        _curves(tables["curves"]),
        Heading("Formats"),
        _formats(tables["formats"]),
        *cramming_figures.of_formats(tables["formats"]),
        Heading("Bytes"),
        Paragraph(
            "The longest texts of which 99 % are reproduced exactly, compared with compressors: zlib, bz2 and lzma "
            "with their containers, a Huffman code of the text's own characters without its table, and arithmetic "
            "coding with a byte model and with the model itself."
        ),
        _sizes(tables["sizes"]),
        Heading("Information gain by two methods"),
        Paragraph("Sum over all texts of a cell: by the difference of losses, and by streams of the range coder."),
        _cells(cells),
    ]
    if len(between):
        blocks += [Heading("Between two solutions"), _paths(between)]
    blocks += [
        Heading("Measures and settings"),
        Bullets(MEASURES),
        Paragraph(f"Settings: `{json.dumps(settings['study'])}`; model `{settings['model'][:12]}`."),
    ]
    lead = f"{len(table['text'].unique())} texts per source; codec `{settings['codec']}`, width {settings['d_model']}."
    return [*Page("Cramming texts into input vectors", lead, blocks).write(folder), *paths]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _with_interval(row: dict[str, Any], name: str, digits: int = 1) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return f"{_number(value, digits)} ({_number(low, digits)} to {_number(high, digits)})"


def _summary(summary: pd.DataFrame) -> Table:
    header = ("texts", "K", "capacity", "greedy capacity", "token gain", "information gain, bits", "bits per vector")
    rows = [
        (
            row["source"],
            str(row["k"]),
            _with_interval(row, "capacity", 0),
            _with_interval(row | {"greedy": row["greedy_capacity"]}, "greedy", 0),
            _with_interval(row, "token_gain"),
            _with_interval(row, "gain"),
            _number(row["gain_per_vector"]),
            _number(row["bits_per_dimension"], 3),
            _number(100 * row["utilisation"]) + " %",
            str(row["above"]),
        )
        for row in summary.to_dict("records")
    ]
    return Table((*header, "bits per number", "utilisation", "texts above"), rows, "lrrrrrrrrr")


def _curves(curves: pd.DataFrame) -> Table:
    rows = [
        (
            row["source"],
            *(str(row[name]) for name in ("k", "length")),
            *(_number(row[name], digits) for name, digits in (("accuracy", 4), ("exact", 3), ("exact_prefix", 1))),
            _with_interval(row, "gain"),
            _number(row["bits_alone"]),
        )
        for row in curves.to_dict("records")
    ]
    header = ("texts", "K", "tokens", "accuracy", "exact", "exact prefix", "information gain, bits", "bits without")
    return Table(header, rows, "lrrrrrrr")


def _formats(formats: pd.DataFrame) -> Table:
    rows = [
        (
            row["source"],
            str(row["k"]),
            _name(row),
            _number(row["bits_per_number"], 2),
            _with_interval(row, "capacity", 0),
            _with_interval(row | {"greedy": row["greedy_capacity"]}, "greedy", 0),
            _number(100 * row["kept"]) + " %",
            _with_interval(row, "gain"),
            _number(row["bits_per_dimension"], 3),
        )
        for row in formats.to_dict("records")
    ]
    header = ("texts", "K", "format", "stored bits", "capacity", "greedy capacity", "kept", "information gain, bits")
    return Table((*header, "bits per number"), rows, "lrlrrrrrr")


def _sizes(sizes: pd.DataFrame) -> Table:
    names = ("length", "stored_bytes", "text_bytes", *cramming_tables.COMPRESSORS)
    rows = [
        (row["source"], str(row["k"]), _name(row), *(_number(row[name], int(name != "length")) for name in names))
        for row in sizes.to_dict("records")
    ]
    headings = cramming_tables.COMPRESSORS.values()
    header = ("texts", "K", "format", "tokens", "vectors, bytes", "text, bytes", *headings)
    return Table(header, rows, "lrl" + "r" * len(names))


def _cells(cells: pd.DataFrame) -> Table:
    rows = [
        (
            row["source"],
            *(str(row[name]) for name in ("k", "length")),
            *(_number(row[name]) for name in ("gain_bits_by_loss", "gain_bits_by_code_length")),
            _number(100 * (row["gain_bits_by_code_length"] / row["gain_bits_by_loss"] - 1), 2) + " %",
        )
        for row in cells.to_dict("records")
        if row["gain_bits_by_loss"]
    ]
    return Table(("texts", "K", "tokens", "by loss, bits", "by code length, bits", "difference"), rows, "lrrrrr")


def _paths(between: pd.DataFrame) -> Table:
    rows = []
    for (source, k), part in between.groupby(["source", "k"], sort=False):
        both = part[part["both_complete"]]
        values = (both[name].mean() for name in ("distance", "cosine", "barrier_bits", "least_accuracy"))
        counts = f"{len(both)} of {len(part)}", f"{int(both['connected'].sum())} of {len(both)}"
        rows.append((source, str(k), *counts, *(_number(value, 3) for value in values)))
    header = ("texts", "K", "solved twice", "connected", "distance", "cosine", "barrier, bits", "least accuracy")
    return Table(header, rows, "lrrrrrrr")


def _name(row: dict[str, Any]) -> str:
    return row["format"] + (" (trained)" if row["trained"] else "")
