"""Corpora of JSON lines: one object per line, whose fields make a document."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import orjson

from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Span, Unit
from compressed_lm.data.sources import compression, files, source_spec, standard_input
from compressed_lm.data.sources import fields as fields_lib
from compressed_lm.data.sources.fields import FieldError, Fields
from compressed_lm.errors import InputError
from compressed_lm.io import limits

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NEWLINE = b"\n"
_BLOCK_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 18
_INVALID = (LookupError, TypeError, AttributeError, ValueError)


class JsonLines(Corpus):
    """One JSON object per line, as C4 is distributed: the document is its field `text` in UTF-8.

    Args:
        names: paths of the files.
        spec: spec of the corpus.
        fields: fields that make a document.
    """

    splits = ("train",)

    def __init__(self, names: Sequence[str], *, spec: str, fields: Fields = fields_lib.TEXT) -> None:
        self.spec = spec
        self.has_ids = fields.id is not None
        self.fields = fields
        share = functools.partial(_share_of_text, fields=fields)
        found = files.for_each(names, lambda name: files.probe(name, spec, share=share))
        self._files = {file.name: file for file in found}

    def _units(self, split: str) -> tuple[Unit, ...]:
        pieces = []
        for file in self._files.values():
            ranges = [(Span(file.name), file.n_bytes)] if file.method else files.ranges(file.name, file.size)
            pieces += [(span, size, size * file.n_text_bytes // max(file.n_bytes, 1)) for span, size in ranges]
        return files.joined(pieces)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        for span in unit.spans:
            file = self._files[span.name]
            with files.open_unchanged(file) as raw:
                reader = _Reader(compression.decompressed(raw, file.method, file.name), file.method, file.name)
                yield from reader.documents(self.fields, start=span.start, stop=span.stop, skip=skip)
                skip -= reader.n_skipped

    def _fingerprint(self, split: str) -> str:
        digest = hashlib.sha256(b"json")
        for file in self._files.values():
            digest.update(file.digest)
        if options := self.fields.options:
            digest.update(json.dumps(options).encode())
        return digest.hexdigest()


class _Reader:
    """Reader of the documents of a file.

    Attributes:
        n_skipped: number of documents that were skipped.
    """

    def __init__(self, stream: BinaryIO, method: str | None, name: str) -> None:
        self._stream, self._method, self._name = stream, method, name
        self.n_skipped = 0

    def documents(
        self, fields: Fields, *, start: int = 0, stop: int | None = None, skip: int = 0
    ) -> Iterator[Document]:
        """Yields the documents whose lines begin at the bytes `start` to `stop - 1`, without the first `skip`.

        Unlike `io.jsonl`, it bounds the length of a line, and also reads an unfinished last line: a document must not
        be lost without an error.
        """
        loads, document = orjson.loads, fields.fast_reader()
        most, number, n_documents = limits.document(limits.JSON_LINE), 0, 0
        try:
            position = self._seek_line(start, stop) if start else 0
            readline = functools.partial(self._stream.readline, most + 1)
            while (stop is None or position < stop) and (line := readline()):
                number += 1
                position += len(line)
                if position == len(line) and line.startswith(_BOM):
                    line = line[len(_BOM) :]
                if len(line) > most:
                    raise self._too_long(number + self._lines_before(start), most)
                if self.n_skipped < skip:
                    self.n_skipped += not _is_blank(line)
                    continue
                try:
                    found = document(loads(line))
                except _INVALID:
                    if _is_blank(line):
                        continue
                    if n_documents + self.n_skipped == 0:
                        self._check_format(line if start == 0 else self._first_line(), fields)
                    found = self._carefully(line, number + self._lines_before(start), fields)
                n_documents += 1
                yield found
        except compression.DAMAGE as error:
            raise compression.damaged(self._name, self._method, self.n_skipped + n_documents, error) from error

    def _seek_line(self, start: int, stop: int | None) -> int:
        """Moves to the first line that begins at `start` or later, and returns its position, at most `stop`."""
        position = self._stream.seek(start - 1)
        while (stop is None or position < stop) and (part := self._stream.readline(_BLOCK_BYTES)):
            position += len(part)
            if part.endswith(_NEWLINE):
                break
        return position

    def _lines_before(self, start: int) -> int:
        """Returns the number of lines that begin before a position. It reads the file to there, and is for errors."""
        if start == 0:
            return 0
        with files.open_raw(self._name) as file:
            n_lines, position = 1, 0
            while position < start - 1 and (block := file.read(min(_BLOCK_BYTES, start - 1 - position))):
                n_lines += block.count(_NEWLINE)
                position += len(block)
        return n_lines

    def _first_line(self) -> bytes:
        """Returns the beginning of the first line that is not blank. It is for errors in the middle of a plain file."""
        with files.open_raw(self._name) as file:
            while (line := file.readline(_BLOCK_BYTES)) and line.isspace():
                pass
        return line

    def _check_format(self, line: bytes, fields: Fields) -> None:
        """Raises InputError if the first line shows that the file has a similar format instead of JSON lines."""
        start, problem = line.strip(), None
        if line.startswith(_UTF16) or b"\x00" in line[:4]:
            problem = "is UTF-16 or UTF-32; UTF-8 was expected", f"iconv -f UTF-16 -t UTF-8 {self._name}"
        elif start.startswith(b"["):
            problem = "is one JSON array; one object per line was expected", f"jq -c '.[]' {self._name}"
        elif start == b"{":
            problem = "has objects of several lines; one object per line was expected", f"jq -c . {self._name}"
        if problem:
            raise InputError(
                f"The file {self._name} {problem[0]}; each line must be {fields.expected()}. Convert it: {problem[1]}."
            )

    def _too_long(self, number: int, most: int) -> InputError:
        """Returns the error of a line that is too large for memory."""
        return InputError(
            f"Line {number} of {self._name} has more than {most:,} bytes; one document per line was expected. Split it "
            f"into documents, or allow more: {limits.HELP}."
        )

    def _carefully(self, line: bytes, number: int, fields: Fields) -> Document:
        """Returns the document of a line that `orjson` or the fast reader refuses, such as one with a lone surrogate.

        Raises:
            InputError: the line is not a JSON object with these fields.
        """
        where = f"Line {number} of {self._name} ({self._name}:{number})"
        try:
            value = json.loads(line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where} is not valid JSON: {error}. Each line must be {fields.expected()}; correct or "
                "remove the line."
            ) from None
        try:
            return fields.document(value)
        except FieldError as error:
            raise InputError(
                f"{where} is {error}; {fields.expected()} was expected. Correct or remove the line, or name "
                "the field of the text: json(field=NAME):PATH."
            ) from None


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def _share_of_text(sample: bytes, fields: Fields) -> float:
    """Returns the share of text in the first lines of a file; 1 if they cannot be read."""
    lines, document = sample[:_SAMPLE_BYTES].split(_NEWLINE), fields.fast_reader()
    lines = lines[:-1] if len(lines) > 1 else lines
    n_bytes = sum(map(len, lines)) + len(lines)
    with contextlib.suppress(*_INVALID):
        return sum(len(document(orjson.loads(line)).text) for line in lines if not _is_blank(line)) / n_bytes
    return 1.0


def _read_stream(stream: BinaryIO, method: str | None, name: str, *, fields: Fields) -> Iterator[Document]:
    return _Reader(stream, method, name).documents(fields)


def _open(rest: str, opener: Opener) -> Corpus:
    fields = Fields.from_options(opener.options)
    spec = source_spec.write("json", fields.options, rest)
    if rest != standard_input.NAME:
        return JsonLines(files.find(rest, spec, ".json.gz"), spec=spec, fields=fields)
    return standard_input.StandardInput(
        spec, functools.partial(_read_stream, fields=fields), has_ids=fields.id is not None
    )


SOURCE = Source(
    "json", "json:PATH", "JSON lines with a field `text`, as C4 is distributed", _open, options=fields_lib.OPTIONS
)
