"""The report of a run: what was compared, how well each codec did at which cost, and which predictions held.

A run directory holds what a report is made from:

  runs.jsonl    rows of the run table (required); those whose `group` is "m1" are M1, all others compare codecs
  curves.jsonl  codec, n_params, step, tokens, bytes (trained on so far), bits_per_byte (validation)
  ratios.jsonl  codec, vocab_size, bytes_per_token, bits_per_byte_of_text, m1_bits_per_byte (null without M1)
  stages.jsonl  name, seconds, line: one stage of the run, its duration, what it did
  samples.json  codec -> text that its model generated
  meta.json     title, corpus, validation_bytes, and whatever else describes the run; the report lists all but the title

`report` rebuilds report.html, report.md and figures/ from them; what is missing is left out and the page says so.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import pandas as pd

from compressed_lm import scaling
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl, local_path, strict_json
from compressed_lm.reports import run_sections as sections
from compressed_lm.reports.page import Page
from compressed_lm.scaling import findings as theory

check_theory = theory.check_theory

_CURVES = ("codec", "n_params", "step", "tokens", "bytes", "bits_per_byte")
_RATIOS = ("codec", "vocab_size", "bytes_per_token", "bits_per_byte_of_text", "m1_bits_per_byte")
_STAGES = ("name", "seconds", "line")


@dataclasses.dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    html: pathlib.Path
    markdown: pathlib.Path
    figures: tuple[pathlib.Path, ...]


def report(run_dir: str | os.PathLike) -> ReportPaths:
    """Rebuilds the report of a run directory from its files, with findings computed anew.

    Raises:
        InputError: there is no run directory or no runs.jsonl in it, or a file cannot be read.
    """
    run_dir = local_path(run_dir, "The folder of the report")
    if not (run_dir / "runs.jsonl").is_file():
        raise InputError(
            f"{run_dir} holds no runs.jsonl. Expected the directory of a run, such as runs/demo: give that one, or "
            "make it by `compressed-lm demo --out runs/demo`."
        )
    try:
        runs = scaling.load_runs(run_dir / "runs.jsonl")
    except ValueError as error:
        raise InputError(str(error)) from error
    curves, ratios = _read_table(run_dir / "curves.jsonl", _CURVES), _read_table(run_dir / "ratios.jsonl", _RATIOS)
    stages = list(_read_table(run_dir / "stages.jsonl", _STAGES).itertuples(index=False, name=None))
    return write_report(
        run_dir,
        runs=runs,
        curves=curves,
        ratios=ratios,
        stages=stages,
        findings=check_theory(runs, ratios),
        meta=_read_object(run_dir / "meta.json"),
        samples=_read_object(run_dir / "samples.json"),
    )


def write_report(
    out_dir: str | os.PathLike,
    *,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    ratios: pd.DataFrame,
    stages: Sequence[tuple[str, float, str]],
    findings: Sequence[tuple[str, str, str]],
    meta: Mapping[str, object],
    samples: Mapping[str, str] | None = None,
) -> ReportPaths:
    """The paths of report.html (one self-contained file), report.md and figures/*.png, written into `out_dir`.

    Args:
        out_dir: the folder; made where missing.
        runs: the run table (`scaling.load_runs`).
        curves: codec, n_params, step, tokens, bytes, bits_per_byte: a row per evaluation during training. May be empty.
        ratios: codec, vocab_size, bytes_per_token, bits_per_byte_of_text, m1_bits_per_byte: a row per codec. May be
            empty.
        stages: (name, seconds, what it did).
        findings: (claim, verdict, detail), as `check_theory` gives them.
        meta: title, corpus, validation_bytes, and anything else worth a line.
        samples: codec -> generated text.

    Raises:
        InputError: a table lacks a column, or there is no final run to report.
    """
    for name, frame, columns in (("curves", curves, _CURVES), ("ratios", ratios, _RATIOS)):
        missing = [column for column in columns if column not in frame] if len(frame) else []
        if missing:
            raise InputError(
                f"The table {name} lacks the column(s) {', '.join(missing)}. Expected: {', '.join(columns)}."
            )
    models = theory.model_runs(runs)
    if models.empty:
        raise InputError(
            "The run table has no final row of a model to compare. Finish a run and evaluate it, then report again."
        )
    seconds = sum(stage[1] for stage in stages)
    lead = f"{models['codec'].nunique()} codecs, {len(models)} models"
    lead += f", trained and judged on `{meta['corpus']}`" if "corpus" in meta else ""
    lead += f", in {sections.duration(seconds)}." if seconds else "."
    blocks = [
        *sections.summary(models, findings, meta, seconds),
        *sections.compared(models),
        *sections.results(runs, models),
        *sections.cost(models),
        *sections.learning(models, curves),
        *sections.compression(ratios),
        *sections.sizes(models),
        *sections.generated(samples or {}),
        *sections.measures(),
        *sections.record(stages, meta, seconds),
    ]
    title = str(meta.get("title", "Language models over compressed text"))
    paths = Page(title, lead, blocks).write(local_path(out_dir, "The folder of the report"))
    return ReportPaths(paths[0], paths[1], tuple(paths[2:]))


def _read_table(path: pathlib.Path, columns: Sequence[str]) -> pd.DataFrame:
    """The JSONL file as a table with at least these columns; empty where the file is missing."""
    rows = list(jsonl.read(path)) if path.is_file() else []
    for number, row in rows:
        missing = [column for column in columns if column not in row]
        if missing:
            raise InputError(f"{path} line {number} lacks {', '.join(missing)}. Expected: {', '.join(columns)}.")
    frame = pd.DataFrame([row for _, row in rows], columns=None if rows else list(columns))
    return frame[[*columns, *(column for column in frame if column not in columns)]]


def _read_object(path: pathlib.Path) -> dict:
    """The JSON object in a file; empty where the file is missing."""
    if not path.is_file():
        return {}
    try:
        return strict_json.parse(path.read_bytes())
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read as a JSON object ({error}). Mend or remove it; the report is made without it."
        ) from error
