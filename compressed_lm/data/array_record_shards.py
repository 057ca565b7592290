"""Reader of the shards of stores that version 0.1 wrote (format 1): ArrayRecord files.

    tokens-00000-of-00004.array_record    one record per document
    tokens-00000-of-00004.lengths.npy     int64[n_documents, 2]: tokens and bytes of each document
    tokens-00000-of-00004.json            counts and checksums

A record is `u32 n_bytes, u32 crc32(document)` followed by the ids in the smallest unsigned type that holds V - 1, all
little-endian.
"""

import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from compressed_lm.data.shards import Record, id_dtype, sha256_file
from compressed_lm.errors import InputError
from compressed_lm.io import npz, strict_json

_HEADER_BYTES = 8
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def shard_name(index: int, n_shards: int) -> str:
    """Returns the file name, without suffix, of shard `index`."""
    return f"tokens-{index:05d}-of-{n_shards:05d}"


class ArrayRecordShard:
    """Reader of one shard with random access, with the methods of `shards.ShardReader`.

    Attributes:
        entry: its description in the manifest.
    """

    def __init__(self, directory: pathlib.Path, entry: dict[str, Any], *, vocab_size: int, eod_id: int) -> None:
        self.path, self.entry = pathlib.Path(directory) / entry["file"], entry
        self._vocab_size, self._eod_id = vocab_size, eod_id

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_reader", "_offsets")}

    def __len__(self) -> int:
        return self.entry["n_documents"]

    @property
    def _lengths_path(self) -> pathlib.Path:
        return self.path.with_suffix(".lengths.npy")

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Raises InputError if a file is missing or has another size; `sizes` are those of the folder's files."""
        found, expected = sizes.get(self.path.name), self.entry["size"]
        if found is None:
            raise self.damaged("the file is missing")
        if found != expected:
            raise self.damaged(f"it has {found:,} bytes instead of the recorded {expected:,}")
        if self._lengths_path.name not in sizes:
            raise self.damaged(f"{self._lengths_path.name} is missing")

    def read(self, start: int, stop: int) -> list[Record]:
        """Returns the documents `start` to `stop - 1`. Raises `InputError` where the file is damaged."""
        try:
            return [self._unpack(record) for record in self._reader.read(list(range(start, stop)))]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self.damaged(f"reading documents {start} to {stop - 1} failed ({error})") from error

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Returns int32[stop - start], this part of the shard's stream, with end-of-document after each document."""
        out = np.full(stop - start, self._eod_id, np.int32)
        begin = max(int(np.searchsorted(self._offsets, start, side="right")) - 1, 0)
        end = min(int(np.searchsorted(self._offsets, stop, side="left")), len(self))
        for record, offset in zip(self.read(begin, end), self._offsets[begin:end].tolist(), strict=True):
            place = offset - start
            ids = record.ids[max(-place, 0) : max(len(out) - place, 0)]
            out[max(place, 0) : max(place, 0) + len(ids)] = ids
        return out

    def names(self, start: int, stop: int) -> None:
        """Returns None: documents have no names."""

    def verify(self, job: dict | None = None) -> None:
        """Recomputes both checksums, and compares the job that made the shard with `job`.

        Raises:
            InputError: a checksum or the job differs.
        """
        description = self.path.with_suffix(".json")
        if job is not None and description.exists():
            try:
                found = strict_json.parse(description.read_bytes()).get("job", job)
            except (ValueError, AttributeError):
                raise self.damaged(f"{description.name} cannot be read") from None
            if found != job:
                raise self.damaged("it was made by another job than that of the manifest")
        for path, expected in ((self.path, self.entry["sha256"]), (self._lengths_path, self.entry["lengths_sha256"])):
            if sha256_file(path) != expected:
                raise self.damaged(f"the checksum of {path.name} is not the recorded one")

    @functools.cached_property
    def _reader(self) -> ArrayRecordReader:
        return ArrayRecordReader(str(self.path), _OPTIONS, file_reader_buffer_size=1 << 16)

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        """int64[n_documents + 1], start of each document in the shard's stream, with end-of-document after each."""
        # Checked every time: a wrong length would shift rows without an error.
        content = self._lengths_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.entry["lengths_sha256"]:
            raise self.damaged(f"the checksum of {self._lengths_path.name} is not the recorded one")
        try:
            lengths = npz.read_array(content)
        except ValueError as error:
            raise self.damaged(f"{self._lengths_path.name} cannot be read: {error}") from error
        totals = (len(self), self.entry["n_tokens"], self.entry["n_bytes"])
        fits = lengths.dtype == "<i8" and lengths.ndim == 2 and lengths.shape[1] == 2 and lengths.min(initial=0) >= 0
        if not fits or (len(lengths), *lengths.sum(0).tolist()) != totals:
            raise self.damaged(f"{self._lengths_path.name} does not have the counts {totals} of the manifest")
        return np.concatenate([[0], np.cumsum(lengths[:, 0] + 1)])

    def _unpack(self, record: bytes) -> Record:
        """Returns a document. Raises `ValueError` if the record is none, or has ids outside the vocabulary."""
        n_bytes, crc32 = np.frombuffer(record, "<u4", count=2)
        ids = np.frombuffer(record, id_dtype(self._vocab_size), offset=_HEADER_BYTES)
        if ids.max(initial=0) >= self._vocab_size:
            raise ValueError(f"id {ids.max()} is outside the vocabulary 0 to {self._vocab_size - 1}")
        return Record(ids=ids.astype(np.int32), n_bytes=int(n_bytes), crc32=int(crc32))

    def damaged(self, what: str) -> InputError:
        """Returns the error of a damaged shard."""
        return InputError(
            f"Shard {self.path} is damaged: {what}. Version 0.1 wrote it, which this version does not repair: compress "
            "the corpus again, into a new folder."
        )
