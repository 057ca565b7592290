"""Shards of a token store: records, files, writer and reader.

    tokens-00000-of-00004.array_record    one record per document
    tokens-00000-of-00004.lengths.npy     int64[n_documents, 2]: tokens and bytes of each document
    tokens-00000-of-00004.json            counts and checksums; written last, so the shard is finished if it exists

A record is `u32 n_bytes, u32 crc32(document)` followed by the ids in the smallest unsigned type that holds V - 1, all
little-endian. Every file is written under a temporary name in the same folder, flushed to disk and renamed. The same
documents give the same bytes.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from compressed_lm.errors import InputError
from compressed_lm.io import npz, publish, remove_temporaries, strict_json, write_atomic

_HEADER_BYTES = 8
# One uncompressed record per chunk: a random read loads nothing else, and tokens hardly compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
TEMPORARY_SUFFIX = ".partial"


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


def pack(ids: np.ndarray, document: bytes, *, vocab_size: int) -> bytes:
    """Returns the record of one document. Raises `ValueError` where an id is outside the vocabulary."""
    ids = np.asarray(ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise ValueError(
            f"The codec returned ids between {ids.min()} and {ids.max()}, outside its vocabulary 0 to {vocab_size - 1}."
        )
    header = np.array([len(document), zlib.crc32(document)], "<u4")
    return header.tobytes() + ids.astype(id_dtype(vocab_size)).tobytes()


def unpack(record: bytes, *, vocab_size: int) -> Record:
    """Returns the document's ids, length and checksum. Raises `ValueError` where it is none, or has other ids."""
    n_bytes, crc32 = np.frombuffer(record, "<u4", count=2)
    ids = np.frombuffer(record, id_dtype(vocab_size), offset=_HEADER_BYTES)
    if ids.max(initial=0) >= vocab_size:
        raise ValueError(f"id {ids.max()} is outside the vocabulary 0 to {vocab_size - 1}")
    return Record(ids=ids.astype(np.int32), n_bytes=int(n_bytes), crc32=int(crc32))


def shard_name(index: int, n_shards: int) -> str:
    """Returns the file name, without suffix, of shard `index`."""
    return f"tokens-{index:05d}-of-{n_shards:05d}"


def sha256_file(path: pathlib.Path) -> str:
    """Returns the hex digest of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(value: Any) -> bytes:
    """Returns deterministic, readable JSON."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_description(path: pathlib.Path) -> dict:
    """Returns the description that `commit` wrote; empty if it is missing or damaged (the shard is unfinished)."""
    try:
        entry = strict_json.parse(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    counts = ("size", "n_documents", "n_tokens", "n_bytes")
    whole = (
        all(isinstance(entry.get(name), int) and entry[name] >= 0 for name in counts)
        and all(isinstance(entry.get(name), str) for name in ("sha256", "lengths_sha256"))
        and entry.get("file") == path.with_suffix(".array_record").name
        and isinstance(job := entry.get("job", {}), dict)
        and all(isinstance(job.get(name, {}), dict) for name in ("codec", "corpus"))
    )
    return entry if whole else {}


class ShardWriter:
    """Writer of one shard: `add` each document, `close`, `read` for checks, then `commit`.

    As a context manager it removes its temporary file unless `commit` was called.
    """

    def __init__(self, directory: pathlib.Path, name: str, *, vocab_size: int) -> None:
        self._directory = pathlib.Path(directory)
        self._name = name
        self._vocab_size = vocab_size
        self._path = self._directory / f"{name}.array_record"
        self._temporary = self._directory / f"{name}.array_record{TEMPORARY_SUFFIX}"
        self._temporary.unlink(missing_ok=True)
        for suffix in ("json", "lengths.npy"):
            remove_temporaries(self._directory / f"{name}.{suffix}")
        self._writer = ArrayRecordWriter(str(self._temporary), _WRITER_OPTIONS)
        self._lengths: list[tuple[int, int]] = []

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(RuntimeError):  # closing a failed writer fails again
            self._stop()
        self._temporary.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, ids: np.ndarray, document: bytes) -> None:
        """Appends one document. Raises `OSError` where the disk refuses it."""
        _as_os_error(self._writer.write, pack(ids, document, vocab_size=self._vocab_size))
        if not self._writer.ok():  # chunks are written in the background; this reports failures before `close`
            self.close()
        self._lengths.append((len(ids), len(document)))

    def close(self) -> None:
        """Finishes the records; `read` works afterwards."""
        _as_os_error(self._stop)

    def read(self, positions: Sequence[int]) -> list[Record]:
        """Returns the documents at these positions as they lie on the disk."""
        reader = ArrayRecordReader(str(self._temporary), _READER_OPTIONS)
        try:
            return [unpack(record, vocab_size=self._vocab_size) for record in reader.read(list(positions))]
        finally:
            reader.close()

    def commit(self, **extra: Any) -> dict[str, Any]:
        """Renames the files, writes the description last, and returns it. `extra` is added to the written one."""
        lengths = np.array(self._lengths, "<i8").reshape(-1, 2)
        buffer = io.BytesIO()
        np.save(buffer, lengths)
        entry = {
            "file": self._path.name,
            "sha256": sha256_file(self._temporary),
            "size": self._temporary.stat().st_size,
            "lengths_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "n_documents": len(lengths),
            "n_tokens": int(lengths[:, 0].sum()),
            "n_bytes": int(lengths[:, 1].sum()),
        }
        write_atomic(self._directory / f"{self._name}.lengths.npy", buffer.getvalue())
        publish(self._temporary, self._path)
        write_atomic(self._directory / f"{self._name}.json", to_json(entry | extra))
        return entry

    def _stop(self) -> None:
        if self._writer.is_open():
            self._writer.close()


def _as_os_error(function: Callable, *args: Any) -> None:
    """Calls the record writer and converts its `RuntimeError`, which contains the system's message, to `OSError`."""
    try:
        function(*args)
    except RuntimeError as error:
        message = str(error)
        code = errno.ENOSPC if os.strerror(errno.ENOSPC) in message else errno.EIO
        raise OSError(code, message) from error


class ShardReader:
    """Reader of one finished shard with random access; files are opened at the first use and after pickling."""

    def __init__(self, directory: pathlib.Path, entry: dict[str, Any], *, vocab_size: int) -> None:
        self.path = pathlib.Path(directory) / entry["file"]
        self.entry = entry
        self._vocab_size = vocab_size
        self._reader: ArrayRecordReader | None = None
        self._offsets: np.ndarray | None = None
        self._check_size()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None, "_offsets": None}

    def __len__(self) -> int:
        return self.entry["n_documents"]

    @property
    def lengths_path(self) -> pathlib.Path:
        return self.path.with_suffix(".lengths.npy")

    @property
    def offsets(self) -> np.ndarray:
        """int64[n_documents + 1], start of each document in the shard's stream, with end-of-document after each."""
        if self._offsets is None:
            # Checked every time: a wrong length would shift rows without an error.
            content = self.lengths_path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.entry["lengths_sha256"]:
                raise self.damaged(f"the checksum of {self.lengths_path.name} is not the recorded one")
            self._offsets = np.concatenate([[0], np.cumsum(self._lengths(content)[:, 0] + 1)])
        return self._offsets

    def _lengths(self, content: bytes) -> np.ndarray:
        """Returns the checked content of the lengths file, int64[n_documents, 2]."""
        try:
            lengths = npz.read_array(content)
        except ValueError as error:
            raise self.damaged(f"{self.lengths_path.name} cannot be read: {error}") from error
        totals = (len(self), self.entry["n_tokens"], self.entry["n_bytes"])
        fits = lengths.dtype == "<i8" and lengths.ndim == 2 and lengths.shape[1] == 2 and lengths.min(initial=0) >= 0
        if not fits or (len(lengths), *lengths.sum(0).tolist()) != totals:
            raise self.damaged(f"{self.lengths_path.name} does not have the counts {totals} of the manifest")
        return lengths

    def read(self, start: int, stop: int) -> list[Record]:
        """Returns the documents `start` to `stop - 1`. Raises `InputError` where the file is damaged."""
        try:
            if self._reader is None:
                self._reader = ArrayRecordReader(str(self.path), _READER_OPTIONS, file_reader_buffer_size=1 << 16)
            records = self._reader.read(list(range(start, stop)))
            return [unpack(record, vocab_size=self._vocab_size) for record in records]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self.damaged(f"reading documents {start} to {stop - 1} failed ({error})") from error

    def verify(self, job: dict | None = None) -> None:
        """Recomputes both checksums, and compares the job that made the shard.

        Args:
            job: job of the manifest: codec, corpus and options.

        Raises:
            InputError: a checksum or the job differs.
        """
        self._check_job(job)
        for path, expected in ((self.path, self.entry["sha256"]), (self.lengths_path, self.entry["lengths_sha256"])):
            if sha256_file(path) != expected:
                raise self.damaged(f"the checksum of {path.name} is not the recorded one")

    def _check_job(self, job: dict | None) -> None:
        description = self.path.with_suffix(".json")
        if job is None or not description.exists():
            return
        entry = read_description(description)
        if not entry:
            raise self.damaged(f"{description.name} cannot be read")
        found = entry.get("job", job)
        if found != job:
            differing = ", ".join(key for key in job if found.get(key) != job[key]) or "more"
            raise self.damaged(
                f"it was made by another job than that of the manifest ({differing} differ), so its tokens have "
                "another meaning"
            )

    def damaged(self, what: str) -> InputError:
        """Returns the error of a damaged shard."""
        description = self.path.with_suffix(".json").name
        return InputError(
            f"Shard {self.path} is damaged: {what}. Remove {self.path.name} and {description} and run the same "
            "`compressed-lm compress` command again; it writes only the shards that are missing."
        )

    def _check_size(self) -> None:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise self.damaged("the file is missing") from None
        if size != self.entry["size"]:
            raise self.damaged(f"it has {size:,} bytes instead of the recorded {self.entry['size']:,}")
        if not self.lengths_path.exists():
            raise self.damaged(f"{self.lengths_path.name} is missing")
