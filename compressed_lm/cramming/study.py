"""Cramming study: measurements over a grid of sources, lengths, numbers of vectors and formats.

A folder has

  study.json     settings, and the fingerprint of the model
  results.jsonl  one row per text, length, K and format: keys and numbers of `_Cell._rows`
  cells.jsonl    one row per source, length and K: information gain of all its texts, by losses and by code lengths
  paths.jsonl    one row per text that was crammed twice: the path between the solutions
  vectors/       one file (.npz) per cell and format of cramming: the vectors of its texts (`cramming.vector_files`)
  unfinished/    state of the cell that is being measured

Rows are appended cell by cell; an interrupted study resumes inside its cell.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from compressed_lm import io, settings
from compressed_lm.codecs.protocol import Codec
from compressed_lm.cramming import compressors, landscape, metrics, vector_files
from compressed_lm.cramming.code_length import coded_bits, coded_bits_alone
from compressed_lm.cramming.config import CramConfig, storable
from compressed_lm.cramming.frozen import FrozenModel, Reading, read, read_alone, write
from compressed_lm.cramming.optimize import Status, cram
from compressed_lm.cramming.result import Crammed
from compressed_lm.cramming.saved_state import texts_digest
from compressed_lm.cramming.vectors import Mapping as VectorMapping
from compressed_lm.cramming.vectors import pack, quantized
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl, locks, strict_json
from compressed_lm.settings import setting

SETTINGS, RESULTS, CELLS, PATHS = "study.json", "results.jsonl", "cells.jsonl", "paths.jsonl"
VECTORS, UNFINISHED = "vectors", "unfinished"
CODED_TIMES = 16
"""Repetitions of a cell's texts in a stream, so that its last byte has little effect."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Grid of a study.

    Attributes:
        lengths: tokens of a text.
        vectors: numbers of vectors K; values above a length are skipped there.
        formats: formats to which vectors are quantised after cramming in float32, which is always measured itself.
        trained_formats: formats that are used during cramming; texts are crammed once per format.
        beyond: after this many lengths with an accuracy below 0.99, longer ones are skipped; 0 for all lengths.
        restarts: texts of each source and K that are crammed a second time, at the shortest length, to measure the path
            between two solutions.
        config: the other settings.
    """

    lengths: tuple[int, ...] = setting(low=1)
    vectors: tuple[int, ...] = setting((1,), low=1)
    formats: tuple[str, ...] = ()
    trained_formats: tuple[str, ...] = ()
    beyond: int = setting(0, low=0)
    restarts: int = setting(0, low=0)
    config: CramConfig = CramConfig()

    def __post_init__(self) -> None:
        settings.check(self)
        if not self.lengths or not self.vectors:
            raise InputError(
                f"lengths={self.lengths} and vectors={self.vectors} were given; expected at least one of each."
            )
        for field in ("formats", "trained_formats"):
            object.__setattr__(self, field, tuple(str(storable(spec)) for spec in getattr(self, field)))

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(K, length) of each cell, cheap ones first."""
        return sorted(((k, n) for k in self.vectors for n in self.lengths if k <= n), key=lambda cell: cell[::-1])


def run_study(
    model: FrozenModel,
    codec: Codec,
    texts: Mapping[str, Sequence[np.ndarray]],
    study: Study,
    *,
    out: str | os.PathLike,
    slots: int = 32,
    arithmetic: Codec | None = None,
    save_every: float = 60.0,
    progress: Callable[[str, Status], None] = lambda cell, status: None,
) -> pathlib.Path:
    """Crams all texts at all lengths and writes the measurements.

    Args:
        model: the model.
        codec: codec of the model, for the bytes of texts.
        texts: source -> texts int32[longest length]; shorter lengths use their beginnings.
        study: the grid.
        out: folder; finished cells in it are not crammed again.
        slots: texts per batch.
        arithmetic: codec `ac` of a byte model whose sizes of the texts are reported beside those of other compressors.
        save_every: seconds between writes of the state of the current cell.
        progress: called with the name of a cell and its progress.

    Returns:
        The folder.

    Raises:
        InputError: a text is too short, or the folder has another study.
    """
    short = [name for name, rows in texts.items() if not rows or min(map(len, rows)) < max(study.lengths)]
    if short:
        raise InputError(
            f"The source {short[0]} was given without texts, or with texts of fewer than {max(study.lengths)} tokens, "
            "the longest length; give texts of at least this length."
        )
    io.check_output(out, "The folder of the study", folder=True)
    out = io.local_path(out)
    with locks.held(out):
        _claim(out, model, texts, study)
        done = {(row["source"], row["k"], row["length"]): row["accuracy"] for row in read_rows(out / CELLS)}
        for k, length in study.cells:
            for source, rows in texts.items():
                if (source, k, length) in done:
                    continue
                failed = [accuracy < metrics.THRESHOLD for (s, v, _), accuracy in done.items() if (s, v) == (source, k)]
                if study.beyond and sum(failed) >= study.beyond:
                    continue
                name = f"{source}, K = {k}, {length} tokens"
                cell = _Cell(
                    model, codec, study, source, k, [ids[:length] for ids in rows], slots, out, arithmetic, save_every
                )
                results, summary, paths = cell.measure(functools.partial(progress, name))
                _append(out / RESULTS, results)
                _append(out / PATHS, paths)
                _append(out / CELLS, [summary])  # last: a cell without it is measured again
                done[source, k, length] = summary["accuracy"]
                shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of a process that was killed after its last row
    return out


def read_rows(path: pathlib.Path) -> list[dict]:
    """Returns the rows of a file of JSON lines; none if there is no file.

    A cell that was measured twice, because the first time was interrupted, has its last rows.
    """
    rows = {}
    for _, row in jsonl.read(path, skip_damaged=True) if path.exists() else ():
        names = ("source", "k", "length", "text", "format", "trained")
        rows[json.dumps([row.get(name) for name in names])] = row
    return list(rows.values())


@dataclasses.dataclass(frozen=True)
class _Cell:
    model: FrozenModel
    codec: Codec
    study: Study
    source: str
    k: int
    texts: list[np.ndarray]
    slots: int
    folder: pathlib.Path
    arithmetic: Codec | None
    save_every: float

    def measure(self, progress: Callable[[Status], None]) -> tuple[list[dict], dict, list[dict]]:
        """Returns (rows of results, row of the cell, rows of paths)."""
        alone = read_alone(self.model, self.texts, slots=self.slots)
        sizes = [self._sizes(ids) for ids in self.texts]
        found = self._cram("dense", progress)
        rows, vectors = [], [f.vectors for f in found]
        for form in ("dense", *self.study.formats):
            rows += self._rows(found, form, alone, sizes, trained=False)
        for form in self.study.trained_formats:
            rows += self._rows(self._cram(form, progress), form, alone, sizes, trained=True)
        nats = [sum(r.nats.sum() for r in readings) for readings in (alone, self._read(vectors))]
        coded = (
            coded_bits_alone(self.model, self.texts, times=CODED_TIMES),
            coded_bits(self.model, vectors, self.texts, times=CODED_TIMES),
        )
        cell = self._key() | {
            "texts": len(self.texts),
            "accuracy": round(float(np.mean([row["right"] / row["length"] for row in rows[: len(found)]])), 6),
            "gain_bits_by_loss": round(metrics.information_gain_bits(*nats), 3),
            "gain_bits_by_code_length": coded[0] - coded[1],
        }
        restarted = (
            self.study.restarts if len(self.texts[0]) == min(n for k, n in self.study.cells if k == self.k) else 0
        )
        return rows, cell, self._paths(found[:restarted], progress)

    def _key(self) -> dict[str, Any]:
        return {"source": self.source, "k": self.k, "length": len(self.texts[0])}

    def _config(self, form: str, **changes: Any) -> CramConfig:
        return dataclasses.replace(self.study.config, n_vectors=self.k, format=form, **changes)

    def _cram(self, form: str, progress: Callable[[Status], None]) -> list[Crammed]:
        found = self._resumable(form, self.texts, self._config(form), progress)
        (self.folder / VECTORS).mkdir(exist_ok=True)
        vector_files.write_all(self.folder / VECTORS / f"{self._name(form)}.npz", found)
        return found

    def _resumable(
        self, name: str, texts: list[np.ndarray], config: CramConfig, progress: Callable[[Status], None]
    ) -> list[Crammed]:
        """Returns the results of texts; the state is kept until the cell is done."""
        (self.folder / UNFINISHED).mkdir(exist_ok=True)
        state = self.folder / UNFINISHED / f"{self._name(name)}.state"
        return cram(
            self.model, texts, config, slots=self.slots, progress=progress, state=state, save_every=self.save_every
        )

    def _name(self, form: str) -> str:
        """Returns the name of a file of this cell; formats have characters that some file systems refuse."""
        plain = re.sub(r"[^a-z0-9.]+", "-", form.lower()).strip("-")
        return f"{self.source}-k{self.k}-n{len(self.texts[0])}-{plain}"

    def _read(self, vectors: Sequence) -> list[Reading]:
        return read(self.model, vectors, self.texts, slots=self.slots)

    def _rows(
        self, found: list[Crammed], form: str, alone: list[Reading], sizes: list[dict], *, trained: bool
    ) -> list[dict]:
        """Returns one row per text, with its numbers in a format."""
        mapping = VectorMapping.of(self.study.config, self.model.config.d_model)
        vectors = [np.asarray(mapping.vectors(quantized(f.numbers, form))) for f in found]
        written = write(self.model, vectors, [len(ids) for ids in self.texts], slots=self.slots)
        stored = pack(found[0].numbers, form).nbytes
        return [
            self._key()
            | {
                "text": i,
                "format": form,
                "trained": trained,
                "stored_bytes": stored,
                "dimensions": mapping.stored * self.k,
                "right": int(reading.right.sum()),
                "right_alone": int(before.right.sum()),
                "bits": round(metrics.information_gain_bits(reading.nats.sum(), 0), 3),
                "bits_alone": round(metrics.information_gain_bits(before.nats.sum(), 0), 3),
                "lowest_bits": round(metrics.information_gain_bits(f.lowest_nats, 0), 3),
                "exact": bool(np.array_equal(ids, own)),
                "exact_prefix": metrics.longest_exact_prefix(own, ids),
                "steps": f.steps,
                "best_step": f.best_step,
            }
            | size
            for i, (ids, f, own, reading, before, size) in enumerate(
                zip(self.texts, found, written, self._read(vectors), alone, sizes, strict=True)
            )
        ]

    def _sizes(self, ids: np.ndarray) -> dict[str, int]:
        """Returns the size of a text in bytes, plain and compressed."""
        data = self.codec.decode_partial(ids)
        return {
            "text_bytes": len(data),
            **compressors.sizes(data),
            "ac_bytes": int(coded_bits_alone(self.model, [ids])) // 8,
            **({"m1_bytes": len(self.arithmetic.encode(data))} if self.arithmetic else {}),
        }

    def _paths(self, found: list[Crammed], progress: Callable[[Status], None]) -> list[dict]:
        """Crams the texts again from another start, and returns one row per text."""
        if not found:
            return []
        texts, seed = self.texts[: len(found)], self.study.config.seed + 1
        others = self._resumable("again", texts, self._config("dense", seed=seed), progress)
        rows = []
        for i, (ids, a, b) in enumerate(zip(texts, found, others, strict=True)):
            path = landscape.path(self.model, ids, a.vectors, b.vectors)
            rows.append(
                self._key()
                | {
                    "text": i,
                    "distance": round(path.distance, 4),
                    "cosine": round(path.cosine, 4),
                    "barrier_bits": round(metrics.information_gain_bits(path.barrier_nats, 0), 3),
                    "least_accuracy": float(path.accuracies.min()),
                    "both_complete": a.complete and b.complete,
                    "connected": path.connected,
                }
            )
        return rows


def _claim(out: pathlib.Path, model: FrozenModel, texts: Mapping[str, Sequence[np.ndarray]], study: Study) -> None:
    """Writes the settings of a study, or checks that those in the folder are the same."""
    current = {
        "model": model.fingerprint,
        "d_model": model.config.d_model,
        "vocab_size": model.config.vocab_size,
        "codec": model.codec_spec,
        "texts": {name: len(rows) for name, rows in texts.items()},
        "texts_sha256": {name: texts_digest(rows) for name, rows in texts.items()},
        "study": dataclasses.asdict(study),
    }
    path, current = out / SETTINGS, json.loads(json.dumps(current))
    # Studies begun by earlier versions have no digests.
    before = {"texts_sha256": current["texts_sha256"]} | read_settings(out) if path.exists() else current
    if changed := [name for name in current if before.get(name) != current[name]]:
        raise InputError(
            f"{out} has a study with other values of {', '.join(changed)}. Give the original values to continue it, or "
            "give another folder."
        )
    if not path.exists():
        io.write_atomic(path, json.dumps(current, indent=2) + "\n")


def read_settings(out: pathlib.Path) -> dict:
    """Returns the settings of the study in a folder. Raises InputError if they cannot be read."""
    try:
        return strict_json.parse((out / SETTINGS).read_bytes())
    except ValueError as error:
        raise InputError(
            f"{out / SETTINGS} cannot be read ({error}). Restore it, or remove it to continue with the given settings."
        ) from error


def _append(path: pathlib.Path, rows: Iterable[dict]) -> None:
    """Appends rows, on a new line if a killed process left an unfinished one."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        cut = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * cut + "".join(json.dumps(row) + "\n" for row in rows).encode())
