"""Token stores: compressed corpora on disk with random access.

A store is a folder of shards (see `shards.py`) and one `manifest.json`, written last, that describes the codec and the
documents. For training, its documents are one stream `doc0 EOD doc1 EOD ...`, divided into rows of equal length.
"""

import collections
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from compressed_lm.data import manifest as manifest_lib
from compressed_lm.data.array_record_shards import ArrayRecordShard
from compressed_lm.data.shards import Record, ShardReader
from compressed_lm.errors import InputError
from compressed_lm.io import any_path, remote

MANIFEST = manifest_lib.FILE
PADDING = -1


class TokenStore:
    """Finished token store, open for reading. It can be pickled.

    Attributes:
        path: the folder.
        manifest: its manifest, as written.
        fingerprint: hex digest of the content (codec, corpus, shard checksums).
        codec_spec: the codec's spec.
        codec_fingerprint: the codec's fingerprint.
        vocab_size: V, the codec's number of ids.
        eod_id: id of end-of-document in rows: V, or the codec's own.
        n_documents, n_tokens, n_bytes: totals; `n_tokens` is without end-of-document.
    """

    def __init__(self, path: Any, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = manifest_lib.fingerprint(manifest)
        self.codec_spec: str = manifest["codec"]["spec"]
        self.codec_fingerprint: str = manifest["codec"]["fingerprint"]
        self.vocab_size: int = manifest["codec"]["vocab_size"]
        self.eod_id: int = manifest["codec"].get("eod_id", self.vocab_size)
        self.n_documents: int = manifest["n_documents"]
        self.n_tokens: int = manifest["n_tokens"]
        self.n_bytes: int = manifest["n_bytes"]
        reader: type[ShardReader] | type[ArrayRecordShard] = (
            ArrayRecordShard if manifest["format_version"] == 1 else ShardReader
        )
        known = dict(vocab_size=self.vocab_size, eod_id=self.eod_id)
        self._shards = [reader(path, entry, **known) for entry in manifest["shards"]]
        self._first_document = np.cumsum([0] + [len(shard) for shard in self._shards])
        # Each shard's part of the stream: its tokens and one end-of-document per document.
        self._first_token = np.cumsum([0] + [entry["n_tokens"] + entry["n_documents"] for entry in manifest["shards"]])

    @classmethod
    def open(cls, path: str | os.PathLike, *, fingerprint: str | None = None) -> "TokenStore":
        """Opens the store in a folder; no shard is read.

        Args:
            path: folder that the compression job wrote, local or in an object store.
            fingerprint: fingerprint of the codec that the caller uses; a store of another codec is refused.

        Raises:
            InputError: there is no finished store, it has another format or codec, or a shard is missing or truncated.
        """
        path = any_path(path, "The token store")
        manifest = manifest_lib.read(path)
        found = manifest["codec"]["fingerprint"]
        if fingerprint is not None and found != fingerprint:
            raise InputError(
                f"The token store {path} was made by codec {manifest['codec']['spec']} with fingerprint {found[:16]}, "
                f"but the codec in use has {fingerprint[:16]} (another M1, other options or another version). Use the "
                "codec that made the store, or compress the corpus again."
            )
        store = cls(path, manifest)
        sizes = remote.sizes(path)
        for shard in store._shards:
            shard.check_sizes(sizes)
        return store

    def __repr__(self) -> str:
        counts = f"documents={self.n_documents:,}, tokens={self.n_tokens:,}"
        return f"TokenStore({str(self.path)!r}, codec={self.codec_spec}, {counts})"

    def __len__(self) -> int:
        """Returns the number of documents."""
        return self.n_documents

    def document(self, index: int) -> Record:
        """Returns document `index`: its ids int32[T], byte length and checksum."""
        if not 0 <= index < self.n_documents:
            raise IndexError(f"document {index} of {self.n_documents}")
        shard = int(np.searchsorted(self._first_document, index, side="right")) - 1
        local = index - int(self._first_document[shard])
        return self._shards[shard].read(local, local + 1)[0]

    def documents(self, start: int = 0, stop: int | None = None, *, batch: int = 256) -> Iterator[Record]:
        """Yields the documents `start` to `stop - 1` in order, `batch` of them in memory."""
        for shard, first, last in self._parts(start, stop):
            for begin in range(first, last, batch):
                yield from shard.read(begin, min(begin + batch, last))

    def names(self, start: int = 0, stop: int | None = None) -> Iterator[str | None]:
        """Yields the names of the documents `start` to `stop - 1`; None for those without."""
        for shard, begin, end in self._parts(start, stop):
            yield from shard.names(begin, end) or [None] * (end - begin)

    def _parts(self, start: int, stop: int | None) -> Iterator[tuple[Any, int, int]]:
        """Yields (shard, first, last + 1) of the documents `start` to `stop - 1`."""
        stop = self.n_documents if stop is None else min(stop, self.n_documents)
        for shard, first in zip(self._shards, self._first_document[:-1].tolist(), strict=True):
            begin, end = max(start - first, 0), min(stop - first, len(shard))
            if begin < end:
                yield shard, begin, end

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Returns int32[stop - start], this part of the stream, with end-of-document after each document."""
        first = int(self._first_token.searchsorted(start, "right")) - 1
        last = int(self._first_token.searchsorted(stop, "left"))
        if last == first + 1:
            base = int(self._first_token[first])
            return self._shards[first].tokens(start - base, stop - base)
        bounds = self._first_token[first : last + 1].tolist()
        parts = [
            shard.tokens(max(start - base, 0), min(stop - base, end - base))
            for shard, base, end in zip(self._shards[first:last], bounds, bounds[1:], strict=False)
            if base < end
        ]
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def rows(self, seq_len: int, *, drop_remainder: bool = True) -> "Rows":
        """Returns the stream in rows of `seq_len` tokens, with random access."""
        return Rows(self, seq_len, drop_remainder=drop_remainder)

    def shares(self) -> dict[str, float]:
        """Returns the share of the bytes of text that each corpus of a mixture has; {} for one corpus."""
        found: collections.Counter[str] = collections.Counter()
        for entry in self.manifest["shards"]:
            found.update(entry.get("bytes_of_parts", {}))
        specs = self.manifest["corpus"].get("parts", {})
        return {specs.get(number, number): n_bytes / self.n_bytes for number, n_bytes in sorted(found.items())}

    def verify(self) -> None:
        """Recomputes the checksum of every shard, and compares the job that made it with the manifest's.

        Raises:
            InputError: at the first shard that differs.
        """
        job = manifest_lib.job_of(self.manifest)
        for shard in self._shards:
            shard.verify(job)


class Rows:
    """Stream of a store in rows: `rows[i]` is `int32[L]`, the tokens i L to (i + 1) L - 1.

    With `drop_remainder` the tokens after the last full row are dropped; otherwise the last row is padded with -1. It
    is a source for `grain.MapDataset.source`.
    """

    def __init__(self, store: TokenStore, seq_len: int, *, drop_remainder: bool = True) -> None:
        if seq_len < 1:
            raise InputError(f"Rows of {seq_len} tokens were requested; give a length of at least 1.")
        self.store = store
        self.seq_len = seq_len
        self._stream = store.n_tokens + store.n_documents
        self._length = self._stream // seq_len if drop_remainder else -(-self._stream // seq_len)

    def __repr__(self) -> str:
        return f"Rows({self.store!r}, seq_len={self.seq_len})"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self._length:
            raise IndexError(f"row {index} of {self._length}")
        start = int(index) * self.seq_len
        row = self.store.tokens(start, min(start + self.seq_len, self._stream))
        if len(row) == self.seq_len:
            return row
        return np.concatenate([row, np.full(self.seq_len - len(row), PADDING, np.int32)])
