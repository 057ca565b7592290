"""Shards of a token store: files, names and reader.

    tokens-00000.ids      ids of all documents, one after the other, in the smallest unsigned type that holds V - 1
    tokens-00000.index    ends (u64[n]), bytes (u64[n]) and CRC-32 of the text (u32[n]) of each of n documents
    tokens-00000.sums     CRC-32 (u32) of each 4,096 bytes of .ids, then of .index
    tokens-00000.names    the name of each document as a line of JSON; only if the corpus names its documents
    tokens-00000.json     counts, checksums and documents; written last, so the shard is finished if it exists

All numbers are little-endian. The end of a document is its end in the shard's stream, in which each document is
followed by an end-of-document token; these tokens are not stored, since most vocabularies fill their type.

Nothing is read when a shard is opened. A read of tokens takes one look into a directory in memory (8 bytes for 512
documents) and three small reads from files, so memory does not grow with the corpus.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from compressed_lm import io
from compressed_lm.data.ranges import RangeFile
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

SUM_BYTES = 4096
"""Bytes under one checksum."""

MOST_DOCUMENTS = 1 << 22
"""Documents of a shard; the writer's memory and the directory are bounded by it."""

FILES = ("ids", "index", "sums")
_STRIDE = 512  # documents per entry of the directory
_PER_DOCUMENT = 20  # bytes of .index


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One encoded document.

    Attributes:
        ids: int32[T], without end-of-document.
        n_bytes: length of the original document in bytes.
        crc32: checksum of the original document.
    """

    ids: np.ndarray
    n_bytes: int
    crc32: int


def id_dtype(vocab_size: int) -> np.dtype:
    """Returns the smallest little-endian unsigned type for ids below `vocab_size`."""
    return np.dtype("<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def shard_name(index: int) -> str:
    """Returns the file name, without suffix, of shard `index`."""
    return f"tokens-{index:05d}"


def to_json(value: Any) -> bytes:
    """Returns deterministic, readable JSON."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def file_sizes(entry: Mapping[str, Any], itemsize: int) -> dict[str, int]:
    """Returns the size in bytes of the files of a shard with these counts, by suffix."""
    ids, index = entry["n_tokens"] * itemsize, entry["n_documents"] * _PER_DOCUMENT
    return {"ids": ids, "index": index, "sums": 4 * (-(-ids // SUM_BYTES) + -(-index // SUM_BYTES))}


def read_description(path: Any) -> dict:
    """Returns the description in a shard's .json; empty if it is missing or damaged (the shard is unfinished)."""
    try:
        entry = strict_json.parse(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    counts = ("n_documents", "n_tokens", "n_bytes")
    whole = (
        all(isinstance(entry.get(name), int) and entry[name] >= 0 for name in counts)
        and isinstance(sums := entry.get("sha256"), dict)
        and set(FILES) <= set(sums) <= {*FILES, "names"}
        and all(isinstance(value, str) for value in sums.values())
        and entry.get("file") == path.name.removesuffix(".json")
        and isinstance(entry.get("job", {}), dict)
    )
    return entry if whole else {}


def sha256_file(path: Any) -> str:
    """Returns the hex digest of a file's content, read in blocks."""
    with io.remote.open_input(path) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


class ShardReader:
    """Reader of one finished shard with random access; files are opened at the first use and after pickling.

    Attributes:
        entry: its description in the manifest.
    """

    def __init__(self, directory: Any, entry: dict[str, Any], *, vocab_size: int, eod_id: int) -> None:
        self._directory = directory
        self.entry = entry
        self._vocab_size, self._eod_id, self._dtype = vocab_size, eod_id, id_dtype(vocab_size)
        sizes = file_sizes(entry, self._dtype.itemsize)
        self._ids, self._index, self._sums = (RangeFile(self._path(name), sizes[name]) for name in FILES)
        self._sizes = sizes

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_directory_of_ends"}

    def __len__(self) -> int:
        return self.entry["n_documents"]

    def _path(self, suffix: str) -> Any:
        return self._directory / f"{self.entry['file']}.{suffix}"

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Raises InputError if a file is missing or has another size; `sizes` are those of the folder's files."""
        for suffix, expected in self._sizes.items():
            found = sizes.get(self._path(suffix).name)
            if found is None:
                raise self.damaged(suffix, "the file is missing")
            if found != expected:
                raise self.damaged(suffix, f"it has {found:,} bytes instead of the recorded {expected:,}")

    def read(self, start: int, stop: int) -> list[Record]:
        """Returns the documents `start` to `stop - 1`. Raises `InputError` where the file is damaged."""
        n, before = len(self), int(self._read_ends(start - 1, start)[0]) if start else 0
        ends = self._read_ends(start, stop)
        n_bytes = np.frombuffer(self._checked(self._index, 8 * (n + start), 8 * (n + stop)), "<u8").tolist()
        crc32 = np.frombuffer(self._checked(self._index, 16 * n + 4 * start, 16 * n + 4 * stop), "<u4").tolist()
        bounds = np.concatenate([[before], ends]) - np.arange(start, stop + 1)  # in .ids
        if np.diff(bounds).min(initial=0) < 0:
            raise self.damaged("index", "the ends of its documents do not increase")
        ids = self._read_ids(int(bounds[0]), int(bounds[-1]))
        parts = np.split(ids, bounds[1:-1] - bounds[0])
        return [Record(*record) for record in zip(parts, n_bytes, crc32, strict=True)]

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Returns int32[stop - start], this part of the shard's stream, with end-of-document after each document."""
        before, ends = self._ends_within(start, stop)
        ids = self._read_ids(start - before, stop - before - len(ends))
        if not len(ends):
            return ids
        out = np.empty(stop - start, np.int32)
        _interleave(ids, ends, start, self._eod_id, out)
        return out

    def names(self, start: int, stop: int) -> list[str] | None:
        """Returns the names of the documents `start` to `stop - 1`; None if the shard has no names."""
        if "names" not in self.entry["sha256"]:
            return None
        with io.remote.open_input(self._path("names")) as file:
            lines = [line for i, line in zip(range(stop), file, strict=False) if i >= start]
        return [json.loads(line) for line in lines]

    def verify(self, job: dict | None = None) -> None:
        """Recomputes the checksums of all files, and compares the job that made the shard.

        Args:
            job: job of the manifest: codec, corpus and options.

        Raises:
            InputError: a checksum or the job differs.
        """
        self._check_job(job)
        for suffix, expected in self.entry["sha256"].items():
            if sha256_file(self._path(suffix)) != expected:
                raise self.damaged(suffix, "the checksum is not the recorded one")

    def _check_job(self, job: dict | None) -> None:
        description = self._path("json")
        if job is None or not description.exists():
            return
        entry = read_description(description)
        if not entry:
            raise self.damaged("json", "it cannot be read")
        found = entry.get("job", job)
        if found != job:
            differing = ", ".join(key for key in job if found.get(key) != job[key]) or "more"
            raise self.damaged(
                "json",
                f"the shard was made by another job than that of the manifest ({differing} differ), so its tokens have "
                "another meaning",
            )

    @functools.cached_property
    def _directory_of_ends(self) -> np.ndarray:
        """i64[ceil(n / 512)], start in the stream of every 512th document."""
        places = range(_STRIDE - 1, len(self) - 1, _STRIDE)
        found = b"".join(self._bytes(self._index, 8 * place, 8 * place + 8) for place in places)
        return np.concatenate([np.zeros(1, "<i8"), np.frombuffer(found, "<i8")])

    def _ends_within(self, start: int, stop: int) -> tuple[int, np.ndarray]:
        """Returns the number of documents that end at or before `start`, and the ends from there to `stop`, i64."""
        k = int(self._directory_of_ends.searchsorted(start, "right")) - 1
        first, last = k * _STRIDE, min((k + 1) * _STRIDE, len(self))
        ends = self._read_ends(first, last)
        while last < len(self) and ends[-1] < stop:
            more = min(last + max(_STRIDE, last - first), len(self))
            ends, last = np.concatenate([ends, self._read_ends(last, more)]), more
        skipped, inside = int(ends.searchsorted(start, "right")), int(ends.searchsorted(stop, "right"))
        chosen = ends[skipped:inside]
        # Each end is beyond the one before it, so that the parts between them have ids.
        if not len(ends) or ends[-1] < stop or (len(chosen) > 1 and (chosen[1:] <= chosen[:-1]).any()):
            raise self.damaged("index", "the ends of its documents do not increase")
        return first + skipped, chosen

    def _read_ends(self, first: int, last: int) -> np.ndarray:
        return np.frombuffer(self._checked(self._index, 8 * first, 8 * last), "<i8")

    def _read_ids(self, first: int, last: int) -> np.ndarray:
        size = self._dtype.itemsize
        if not 0 <= first <= last <= self.entry["n_tokens"]:
            raise self.damaged("index", "the ends of its documents are not those of its tokens")
        ids = np.frombuffer(self._checked(self._ids, first * size, last * size), self._dtype)
        if self._vocab_size < 1 << 8 * size and len(ids) and ids.max() >= self._vocab_size:
            raise self.damaged("ids", f"id {ids.max()} is outside the vocabulary 0 to {self._vocab_size - 1}")
        return ids.astype(np.int32)

    def _checked(self, file: RangeFile, start: int, stop: int) -> bytes | memoryview:
        """Returns part of a file, after checking the checksums of the 4,096-byte parts in which it lies."""
        if start >= stop:
            return b""
        begin, end = start // SUM_BYTES, -(-stop // SUM_BYTES)
        data = memoryview(self._bytes(file, begin * SUM_BYTES, min(end * SUM_BYTES, file.size)))
        offset = 4 * begin if file is self._ids else 4 * (begin - (-self._ids.size // SUM_BYTES))
        sums = self._bytes(self._sums, offset, offset + 4 * (end - begin))
        for i, expected in enumerate(struct.unpack(f"<{end - begin}I", sums)):
            part = data[i * SUM_BYTES : (i + 1) * SUM_BYTES]
            if zlib.crc32(part) != expected:
                place = (begin + i) * SUM_BYTES
                suffix = "ids" if file is self._ids else "index"
                raise self.damaged(suffix, f"bytes {place:,} to {place + len(part):,} were changed")
        return data[start - begin * SUM_BYTES : stop - begin * SUM_BYTES]

    def _bytes(self, file: RangeFile, start: int, stop: int) -> bytes:
        try:
            data = file.read(start, stop)
        except (EOFError, FileNotFoundError, ValueError) as error:
            raise self.damaged(pathlib.PurePath(file.path).suffix[1:], f"it cannot be read ({error})") from error
        if len(data) != stop - start:
            raise self.damaged(pathlib.PurePath(file.path).suffix[1:], "it was truncated after it was opened")
        return data

    def damaged(self, suffix: str, what: str) -> InputError:
        """Returns the error of a damaged shard."""
        path = self._path(suffix)
        return InputError(
            f"Shard {self._directory / self.entry['file']} is damaged: {path.name}: {what}. Remove {path.name} and run "
            "the same `compressed-lm compress` command again; it encodes only the documents of this shard."
        )


def _interleave(ids: np.ndarray, ends: np.ndarray, start: int, eod_id: int, out: np.ndarray) -> None:
    """Writes part of a stream: the ids of documents, each followed by end-of-document.

    Args:
        ids: int32[T], ids without end-of-document.
        ends: int64[D], ends of documents in the stream, after their end-of-document.
        start: position of the part in the stream.
        eod_id: id of end-of-document.
        out: int32[T + D], the part.
    """
    inside = np.ones(len(out), bool)
    inside[ends - 1 - start] = False
    out[inside] = ids
    out[~inside] = eod_id
