"""Token stores: compressed corpora on disk with random access.

A store is a folder of shards (see `shards.py`) and one `manifest.json`, written last, that describes the codec and the
documents. For training, its documents are one stream `doc0 EOD doc1 EOD ...`, divided into rows of equal length.
"""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from compressed_lm import settings
from compressed_lm.data.shards import Record, ShardReader, shard_name, to_json
from compressed_lm.errors import InputError
from compressed_lm.io import inside, local_path, strict_json, write_atomic

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PADDING = -1
JOB = ("codec", "corpus", "max_bytes", "n_shards")
"""Entries of a manifest that determine the tokens; each shard's description has them, too."""

_MOST = 1 << 62


def manifest_fingerprint(manifest: dict) -> str:
    """Returns the hex digest of a store's content: its manifest without the package versions and the checksum."""
    content = {key: value for key, value in manifest.items() if key not in ("versions", "checksum")}
    return hashlib.sha256(to_json(content)).hexdigest()


def write_manifest(directory: pathlib.Path, manifest: dict) -> None:
    """Writes the manifest, which marks the store as finished. An identical manifest is not rewritten."""
    path = pathlib.Path(directory) / MANIFEST
    content = to_json(manifest | {"checksum": _checksum(manifest)})
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def _checksum(manifest: dict) -> str:
    """Returns the hex digest of a manifest without its checksum, which detects changes."""
    return hashlib.sha256(to_json({k: v for k, v in manifest.items() if k != "checksum"})).hexdigest()


def _check(manifest: dict) -> None:
    """Raises an error that names a missing field of a manifest, or one with a wrong type or range."""

    def whole(values: dict, name: str, high: int = _MOST, low: int = 0) -> int:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r:.60}; a whole number from {low} to {high} was expected")
        return value

    def text(values: dict, *names: str) -> None:
        for name in names:
            if not isinstance(values[name], str):
                raise ValueError(f"{name} is {values[name]!r:.60}; text was expected")

    codec, corpus, shards = (manifest[name] for name in ("codec", "corpus", "shards"))
    text(codec, "name", "spec", "fingerprint")
    vocab_size = whole(codec, "vocab_size", settings.LARGEST, low=1)
    if "eod_id" in codec:
        whole(codec, "eod_id", vocab_size)
    text(corpus, "spec", "split", "fingerprint")
    if manifest["max_bytes"] is not None:
        whole(manifest, "max_bytes")
    if whole(manifest, "n_shards") != len(shards):
        raise ValueError(f"n_shards is {manifest['n_shards']} and {len(shards)} are described")
    for index, shard in enumerate(shards):
        text(shard, "file", "sha256", "lengths_sha256")
        whole(shard, "size")
        if shard["file"] != f"{shard_name(index, len(shards))}.array_record":
            raise ValueError(f"shard {index} has the file {shard['file']!r:.60}")
    for name in ("n_documents", "n_bytes", "n_tokens"):
        if whole(manifest, name) != sum(whole(shard, name) for shard in shards):
            raise ValueError(f"{name} is not the sum of its shards")


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

    def __init__(self, path: pathlib.Path, manifest: dict[str, Any]) -> None:
        self.path = pathlib.Path(path)
        self.manifest = manifest
        self.fingerprint = manifest_fingerprint(manifest)
        self.codec_spec: str = manifest["codec"]["spec"]
        self.codec_fingerprint: str = manifest["codec"]["fingerprint"]
        self.vocab_size: int = manifest["codec"]["vocab_size"]
        self.eod_id: int = manifest["codec"].get("eod_id", self.vocab_size)
        self.n_documents: int = manifest["n_documents"]
        self.n_tokens: int = manifest["n_tokens"]
        self.n_bytes: int = manifest["n_bytes"]
        self._shards = [ShardReader(self.path, entry, vocab_size=self.vocab_size) for entry in manifest["shards"]]
        self._first_document = np.cumsum([0] + [len(shard) for shard in self._shards])
        # Each shard's part of the stream: its tokens and one end-of-document per document.
        self._first_token = np.cumsum([0] + [entry["n_tokens"] + entry["n_documents"] for entry in manifest["shards"]])

    @classmethod
    def open(cls, path: str | pathlib.Path, *, fingerprint: str | None = None) -> "TokenStore":
        """Opens the store in a folder.

        Args:
            path: folder that the compression job wrote.
            fingerprint: fingerprint of the codec that the caller uses; a store of another codec is refused.

        Raises:
            InputError: there is no finished store, it has another format or codec, or a shard is missing or truncated.
        """
        path = local_path(path, "The token store")
        try:
            manifest = strict_json.parse(inside(path, MANIFEST).read_bytes())
        except InputError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            finished = len(list(path.glob("tokens-*.json"))) if path.is_dir() else 0
            found = f"has {finished} finished shards but no {MANIFEST}" if finished else f"has no {MANIFEST}"
            raise InputError(
                f"The token store {path} {found}: the compression job was not finished. Run the same "
                f"`compressed-lm compress ... --out {path}` command again; finished shards are kept."
            ) from None
        except ValueError as error:
            raise InputError(
                f"The file {path / MANIFEST} is not valid JSON ({error}). Remove it and run the same "
                f"`compressed-lm compress ... --out {path}` command again; finished shards are kept."
            ) from None
        version = manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"The token store {path} has format version {version}; this package reads version {FORMAT_VERSION}. "
                "Compress the corpus again with this version of compressed_lm, or read the store with the version "
                "named in its manifest."
            )
        if manifest.get("checksum") != _checksum(manifest):
            raise InputError(
                f"The file {path / MANIFEST} was changed: its checksum does not match its content. Remove it and run "
                f"the same `compressed-lm compress ... --out {path}` command again; finished shards are kept."
            )
        try:
            _check(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"The file {path / MANIFEST} is invalid ({error!r}), though its checksum is right: another program "
                f"wrote it. Remove it and run the same `compressed-lm compress ... --out {path}` command again; "
                "finished shards are kept."
            ) from error
        found = manifest["codec"]["fingerprint"]
        if fingerprint is not None and found != fingerprint:
            raise InputError(
                f"The token store {path} was made by codec {manifest['codec']['spec']} with fingerprint {found[:16]}, "
                f"but the codec in use has {fingerprint[:16]} (another M1, other options or another version). Use the "
                "codec that made the store, or compress the corpus again."
            )
        return cls(path, manifest)

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
        stop = self.n_documents if stop is None else min(stop, self.n_documents)
        for shard, first in zip(self._shards, self._first_document[:-1].tolist(), strict=True):
            for begin in range(max(start - first, 0), min(stop - first, len(shard)), batch):
                yield from shard.read(begin, min(begin + batch, stop - first, len(shard)))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Returns int32[stop - start], this part of the stream, with end-of-document after each document."""
        out = np.full(stop - start, self.eod_id, np.int32)
        first = int(np.searchsorted(self._first_token, start, side="right")) - 1
        last = int(np.searchsorted(self._first_token, stop, side="left"))
        for shard, base in zip(self._shards[first:last], self._first_token[first:last].tolist(), strict=True):
            offsets = shard.offsets
            begin = max(int(np.searchsorted(offsets, start - base, side="right")) - 1, 0)
            end = min(int(np.searchsorted(offsets, stop - base, side="left")), len(shard))
            for record, offset in zip(shard.read(begin, end), offsets[begin:end].tolist(), strict=True):
                place = base + offset - start
                ids = record.ids[max(-place, 0) : max(len(out) - place, 0)]
                out[max(place, 0) : max(place, 0) + len(ids)] = ids
        return out

    def rows(self, seq_len: int, *, drop_remainder: bool = True) -> "Rows":
        """Returns the stream in rows of `seq_len` tokens, with random access."""
        return Rows(self, seq_len, drop_remainder=drop_remainder)

    def verify(self) -> None:
        """Recomputes the checksum of every shard, and compares the job that made it with the manifest's.

        Raises:
            InputError: at the first shard that differs.
        """
        job = {key: self.manifest[key] for key in JOB}
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
        return np.pad(row, (0, self.seq_len - len(row)), constant_values=PADDING)
