"""Corpora of Parquet files: one row per document, a column with the text."""

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from compressed_lm import io
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Span, Unit
from compressed_lm.data.sources import extras, files, source_spec
from compressed_lm.data.sources import fields as fields_lib
from compressed_lm.data.sources.fields import FieldError, Fields
from compressed_lm.errors import InputError

if TYPE_CHECKING:
    import pyarrow.parquet

_BATCH_BYTES = 4 << 20
_MOST_ROWS = 4096
_SAMPLE_ROWS = 1024
_STREAM_BYTES = 1 << 20  # of a column that are read at a time, instead of all of a row group


class RowGroup(NamedTuple):
    """Row group of a file: number of rows, and bytes of text (uncompressed)."""

    n_rows: int
    n_bytes: int


class ParquetFiles(Corpus):
    """One document per row: the values of a column, or of several joined by a template. Other columns are not read.

    Args:
        names: paths of the files.
        spec: spec of the corpus.
        fields: columns that make a document.
    """

    splits = ("train",)

    def __init__(self, names: Sequence[str], *, spec: str, fields: Fields = fields_lib.TEXT) -> None:
        self.spec = spec
        self.has_ids = fields.id is not None
        self.fields = fields
        extras.require("pyarrow.parquet", f"The corpus {spec} was given", instead="convert its files to JSON lines")
        probe = functools.partial(_probe, spec=spec, fields=fields)
        self._files = {file.name: (file, groups) for file, groups in files.for_each(names, probe)}

    def _units(self, split: str) -> tuple[Unit, ...]:
        pieces = []
        for file, groups in self._files.values():
            runs = _runs(groups)
            for start, stop in runs:
                n_bytes = sum(group.n_bytes for group in groups[start:stop])
                pieces.append((Span(file.name, start, stop) if len(runs) > 1 else Span(file.name), n_bytes, n_bytes))
        return files.joined(pieces)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        for span in unit.spans:
            file, groups = self._files[span.name]
            stop = len(groups) if span.stop is None else span.stop
            start = span.start
            while start < stop and skip >= groups[start].n_rows:
                skip -= groups[start].n_rows
                start += 1
            if start < stop:
                yield from self._rows(file, groups, start, stop, skip)
                skip = 0

    def _rows(self, file: files.File, groups: list[RowGroup], start: int, stop: int, skip: int) -> Iterator[Document]:
        """Yields the documents of the row groups `start` to `stop - 1`, without the first `skip`."""
        from compressed_lm.data.sources import arrow_columns

        n_rows, n_bytes = map(sum, zip(*groups[start:stop], strict=True))
        row = first = sum(group.n_rows for group in groups[:start])
        with files.open_unchanged(file) as opened, _Damage(file.name):
            table = _open(opened, file.name)
            size = _rows_per_batch(n_rows, n_bytes)
            for batch in table.iter_batches(size, row_groups=range(start, stop), columns=self.fields.names):
                skipped = min(skip, len(batch))
                try:
                    yield from arrow_columns.documents(batch.slice(skipped), self.fields)
                except FieldError as error:
                    number = row + skipped + error.args[1]
                    raise InputError(
                        f"Row {number} of {file.name} (counted from 0) {error.args[0]}; text was expected in each row. "
                        "Remove such rows, or name another column: parquet(field=NAME):PATH."
                    ) from None
                skip -= skipped
                row += len(batch)
            if row - first != n_rows:
                raise OSError(f"{row - first:,} rows instead of {n_rows:,}")

    def _fingerprint(self, split: str) -> str:
        digest = hashlib.sha256(b"parquet")
        for file, _ in self._files.values():
            digest.update(file.digest)
        digest.update(json.dumps(self.fields.options).encode())
        return digest.hexdigest()


def _probe(name: str, *, spec: str, fields: Fields) -> tuple[files.File, list[RowGroup]]:
    """Returns a file and its row groups. Raises InputError if it is damaged, or has no such columns."""
    from compressed_lm.data.sources import arrow_columns

    head, tail, size = files.ends(name)
    if head[:4] != b"PAR1" or tail[-4:] != b"PAR1":
        problem = "is no Parquet file: it does not begin with PAR1"
        if tail[-4:] == b"PARE" or head[:4] == b"PARE":
            problem = "is an encrypted Parquet file, which is not supported"
        elif head[:4] == b"PAR1":
            problem = "is truncated: a Parquet file ends with PAR1"
        raise InputError(
            f"The file {name} of the corpus {spec} {problem}. Fetch it again, or name other files; json:PATH reads "
            "JSON lines."
        )
    with files.open_raw(name) as opened, _Damage(name):
        table = _open(opened, name)
        try:
            arrow_columns.check(table.schema_arrow, fields)
        except FieldError as error:
            raise InputError(
                f"The file {name} of the corpus {spec} {error}; text was expected. Name the column of the text, the "
                "same in all files: parquet(field=NAME):PATH."
            ) from None
        sizes = [
            RowGroup(group.num_rows, max(group.total_byte_size, 0))
            for group in map(table.metadata.row_group, range(table.metadata.num_row_groups))
        ]
        share = _share_of_text(table, fields, sizes)
        groups = [RowGroup(group.n_rows, round(share * group.n_bytes)) for group in sizes]
    n_bytes = sum(group.n_bytes for group in groups)
    return files.File(name, size, None, n_bytes, n_bytes, files.digest(name, head, tail, size)), groups


def _share_of_text(table: "pyarrow.parquet.ParquetFile", fields: Fields, groups: Sequence[RowGroup]) -> float:
    """Returns bytes of text per byte of all columns, from the first rows of a file.

    The sizes of single columns are in the footer, too, but pyarrow ends the process if a damaged footer has them wrong.
    """
    from compressed_lm.data.sources import arrow_columns

    index = next((index for index, group in enumerate(groups) if group.n_rows > 0 and group.n_bytes > 0), None)
    if index is None:
        return 1.0
    rows = min(_rows_per_batch(groups[index].n_rows, groups[index].n_bytes), _SAMPLE_ROWS)
    batch = next(table.iter_batches(rows, row_groups=[index], columns=fields.names), None)
    if not batch:
        return 1.0
    with contextlib.suppress(FieldError):  # a null, which reading reports
        n_bytes = sum(len(document.text) for document in arrow_columns.documents(batch, fields))
        return n_bytes / len(batch) * groups[index].n_rows / groups[index].n_bytes
    return 1.0


def _rows_per_batch(n_rows: int, n_bytes: int) -> int:
    return max(1, min(_MOST_ROWS, _BATCH_BYTES * n_rows // max(n_bytes, 1)))


def _open(opened, name: str) -> "pyarrow.parquet.ParquetFile":
    import pyarrow.parquet

    source = opened if io.is_remote(name) else name
    return pyarrow.parquet.ParquetFile(source, buffer_size=_STREAM_BYTES, page_checksum_verification=True)


class _Damage:
    """Context in which errors of pyarrow are reported as those of a damaged file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        import pyarrow

        if isinstance(error, InputError) or not isinstance(error, pyarrow.ArrowException | OSError):
            return
        if isinstance(error, OSError) and error.errno:
            return
        raise InputError(
            f"The Parquet file {self._name} is truncated or damaged ({str(error).splitlines()[0]}). Fetch the file "
            "again and run the same command; finished work is kept."
        ) from error


def _runs(groups: list[RowGroup]) -> list[tuple[int, int]]:
    """Returns (first, last + 1) of runs of row groups with about `UNIT_BYTES` bytes of text."""
    unit, edges, size = corpus_lib.UNIT_BYTES, [0], 0
    for index, group in enumerate(groups):
        if size and size + group.n_bytes // 2 > unit:
            edges.append(index)
            size = 0
        size += group.n_bytes
    if len(edges) > 1 and size < unit // 2:
        edges.pop()
    return list(itertools.pairwise([*edges, len(groups)]))


def _open_corpus(rest: str, opener: Opener) -> Corpus:
    fields = Fields.from_options(opener.options)
    spec = source_spec.write("parquet", fields.options, rest)
    return ParquetFiles(files.find(rest, spec, ".parquet"), spec=spec, fields=fields)


SOURCE = Source(
    "parquet",
    "parquet:PATH",
    "Parquet files with a column `text`, read by row groups",
    _open_corpus,
    options=fields_lib.OPTIONS,
)
