"""Corpora of Hugging Face data sets: local folders, and data sets of the hub, which are streamed.

Folders of JSON lines and Parquet files are read as the sources `json` and `parquet` read them. No code of a data set is
executed.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from compressed_lm import io
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Span, Unit
from compressed_lm.data.sources import extras, files, source_spec
from compressed_lm.data.sources import fields as fields_lib
from compressed_lm.data.sources.fields import FieldError, Fields
from compressed_lm.data.sources.json_lines import JsonLines
from compressed_lm.data.sources.parquet import ParquetFiles
from compressed_lm.errors import InputError

_ROWS = 256
_READERS = {"json": JsonLines, "parquet": ParquetFiles}


class HuggingFace(Corpus):
    """Splits of a data set.

    Args:
        spec: spec of the corpus.
        parts: corpus of each split, with the one split `train`.
        fields: columns that make a document.
    """

    def __init__(self, spec: str, parts: Mapping[str, Corpus], fields: Fields) -> None:
        self.spec = spec
        self.splits = tuple(parts)
        self.has_ids = fields.id is not None
        self._parts = dict(parts)

    def _units(self, split: str) -> tuple[Unit, ...]:
        return self._parts[split].units("train")

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        return self._parts[split].read("train", unit, skip=skip)

    def _fingerprint(self, split: str) -> str:
        return self._parts[split].describe("train")["fingerprint"]


class _Rows(Corpus):
    """Rows of one split of a data set."""

    splits = ("train",)

    def __init__(self, spec: str, fields: Fields) -> None:
        self.spec = spec
        self.fields = fields
        self.has_ids = fields.id is not None

    def _documents(self, tables: Iterator[Any], first: int, where: str) -> Iterator[Document]:
        """Yields the documents of Arrow tables; `first` is the number of their first row."""
        from compressed_lm.data.sources import arrow_columns

        row = first
        while (table := self._next(tables)) is not None:
            try:
                if row == first:
                    arrow_columns.check(table.schema, self.fields)
                with _DataSetErrors(self.spec):
                    yield from arrow_columns.documents(table, self.fields)
            except FieldError as error:
                problem = error.args[0]
                if len(error.args) > 1:
                    raise InputError(
                        f"Row {row + error.args[1]} of {where} (counted from 0) {problem}; text was expected in each "
                        "row. Remove such rows, or name another column: hf(field=NAME):..."
                    ) from None
                raise InputError(
                    f"The data set {where} {problem}; text was expected. Name the column of the text: "
                    "hf(field=NAME):..."
                ) from None
            row += len(table)

    def _next(self, tables: Iterator[Any]) -> Any:
        with _DataSetErrors(self.spec):
            return next(tables, None)


class SavedRows(_Rows):
    """Rows of a folder that `Dataset.save_to_disk` wrote."""

    def __init__(self, folder: str, *, spec: str, fields: Fields) -> None:
        super().__init__(spec, fields)
        self._folder = folder
        data = self._open()
        self._n_rows = len(data)
        names = {name.partition(".")[0] if name not in data.column_names else name for name in fields.names}
        self._n_bytes = max(sum(data.data.column(name).nbytes for name in names if name in data.column_names), 0)
        next(self._documents(iter([data.with_format("arrow")[:1]]), 0, folder), None)

    def _open(self) -> Any:
        with _DataSetErrors(self.spec):
            return _library(self.spec).load_from_disk(self._folder)

    def _units(self, split: str) -> tuple[Unit, ...]:
        n_units = min(max(round(self._n_bytes / corpus_lib.UNIT_BYTES), 1), self._n_rows)
        edges = [self._n_rows * i // n_units for i in range(n_units + 1)] if n_units else []
        return tuple(
            Unit((Span(self._folder, start, stop),), self._n_bytes * (stop - start) // self._n_rows)
            for start, stop in itertools.pairwise(edges)
        )

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        (span,) = unit.spans
        data, start = self._open().with_format("arrow"), span.start + skip
        stop = self._n_rows if span.stop is None else span.stop
        tables = (data[row : min(row + _ROWS, stop)] for row in range(start, stop, _ROWS))
        return self._documents(tables, start, self._folder)

    def _fingerprint(self, split: str) -> str:
        names = sorted(entry.path for entry in os.scandir(self._folder) if entry.name.endswith(".arrow"))
        return _digest(names, self.fields)


class StreamedRows(_Rows):
    """Rows of a split that the library `datasets` reads itself, from local files or the hub; a unit is one shard."""

    def __init__(self, name: str, config: str | None, split: str, *, spec: str, fields: Fields) -> None:
        super().__init__(spec, fields)
        self._named = name, config, split
        with _DataSetErrors(spec):
            builder = _library(spec).load_dataset_builder(name, config)
            self._sources = _sources(builder).get(split, [])
            info = (builder.info.splits or {}).get(split)
            self._n_bytes = info.num_bytes if info and info.num_bytes else None
            self._n_shards = self._open().num_shards

    def _open(self) -> Any:
        name, config, split = self._named
        with _DataSetErrors(self.spec):
            return _library(self.spec).load_dataset(name, config, split=split, streaming=True)

    def _units(self, split: str) -> tuple[Unit, ...]:
        n_bytes = None if self._n_bytes is None else self._n_bytes // self._n_shards
        return tuple(Unit((Span(self._named[0], i, i + 1),), n_bytes) for i in range(self._n_shards))

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        (span,) = unit.spans
        data = self._open().shard(num_shards=self._n_shards, index=span.start).with_format("arrow")
        where = f"{self._named[0]}, shard {span.start} of {self._n_shards}"
        return self._documents(iter(data.skip(skip).iter(_ROWS)), skip, where)

    def _fingerprint(self, split: str) -> str:
        return _digest(self._sources, self.fields)


class _DataSetErrors:
    """Context in which errors of the library `datasets` become InputError."""

    def __init__(self, spec: str) -> None:
        self._spec = spec

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, InputError | FieldError | MemoryError):
            return
        text = " ".join(str(error).split())
        raise InputError(
            f"The corpus {self._spec} cannot be read by the library `datasets` ({type(error).__name__}: {text:.300}). "
            "Give hf:FOLDER of a local data set, or hf:NAME:CONFIG of one on the hub without code of its own; check "
            "its name, its files and the network."
        ) from error


def _library(spec: str) -> Any:
    return extras.require("datasets", f"The corpus {spec} was given", instead="name its files: json:PATH, parquet:PATH")


def _digest(names: list[str], fields: Fields) -> str:
    """Returns a fingerprint of files; those of the hub have the revision in their names."""
    digest = hashlib.sha256(b"hf")
    for name in names:
        digest.update(files.digest(name, *files.ends(name)) if os.path.isfile(name) else name.encode())
    digest.update(json.dumps(fields.options).encode())
    return digest.hexdigest()


def _open(rest: str, opener: Opener) -> Corpus:
    fields = Fields.from_options(opener.options)
    spec = source_spec.write("hf", fields.options, rest)
    _library(spec)
    name, config = _name_and_config(rest, spec)
    if os.path.isfile(os.path.join(name, "dataset_dict.json")):
        with open(os.path.join(name, "dataset_dict.json"), "rb") as file, _DataSetErrors(spec):
            splits = [split for split in json.load(file)["splits"] if re.fullmatch(r"[\w.-]*\w[\w.-]*", split)]
        parts: dict[str, Corpus] = {
            split: SavedRows(os.path.join(name, split), spec=spec, fields=fields) for split in splits
        }
    elif os.path.isfile(os.path.join(name, "state.json")):
        with open(os.path.join(name, "state.json"), "rb") as file, _DataSetErrors(spec):
            split = str(json.load(file).get("_split") or "train")
        parts = {split if split.isidentifier() else "train": SavedRows(name, spec=spec, fields=fields)}
    else:
        parts = _of_builder(name, config, spec, fields)
    return HuggingFace(spec, parts, fields)


def _of_builder(name: str, config: str | None, spec: str, fields: Fields) -> dict[str, Corpus]:
    """Returns the corpora of the splits of a folder of files, or of a data set of the hub."""
    with _DataSetErrors(spec):
        builder = _library(spec).load_dataset_builder(name, config)
        sources = _sources(builder)
    reader = _READERS.get(builder.name)
    if reader and all(os.path.isfile(path) for paths in sources.values() for path in paths):
        return {split: reader(paths, spec=spec, fields=fields) for split, paths in sources.items()}
    return {split: StreamedRows(name, config, split, spec=spec, fields=fields) for split in sources}


def _sources(builder: Any) -> dict[str, list[str]]:
    """Returns the paths and addresses of the files of each split."""
    found = builder.config.data_files or {}
    return {str(split): [os.fspath(path) for path in paths] for split, paths in found.items()}


def _name_and_config(rest: str, spec: str) -> tuple[str, str | None]:
    """Returns the folder or the name on the hub, and the configuration. Raises InputError if a folder is missing."""
    if (scheme := io.scheme(rest)) is not None:
        raise InputError(
            f"The corpus {spec} was given; hf: reads local folders and data sets of the hub, not {scheme}://. Name "
            "its files: parquet:PATH or json:PATH."
        )
    for name, config in ((rest, None), rest.rpartition(":")[::2]):
        folder = os.fspath(io.local_path(name, f"In the corpus {spec},")) if name else ""
        if os.path.isdir(folder):
            return folder, config or None
    name, _, config = rest.partition(":")
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise InputError(
            f"The corpus {spec} was given, and there is no folder {name}. Give an existing folder, or a name on the "
            "hub such as hf:allenai/c4:en."
        )
    return name, config or None


SOURCE = Source(
    "hf",
    "hf:NAME_OR_FOLDER",
    "a Hugging Face data set; hf:NAME:CONFIG names its configuration",
    _open,
    options=fields_lib.OPTIONS,
)
