"""Writer of one shard of a token store."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import tempfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from compressed_lm import io
from compressed_lm.data.blocks import Block
from compressed_lm.data.shards import FILES, SUM_BYTES, shard_name, to_json

_COPY_BYTES = 1 << 20


class _Hashed:
    """File that is written in sequence, with its SHA-256 and the CRC-32 of each 4,096 bytes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.size = path, 0
        self._file: BinaryIO = open(path, "wb")
        self._sha256, self._sums, self._rest = hashlib.sha256(), bytearray(), b""

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._sha256.update(view)
        self.size += len(view)
        start = 0
        if self._rest:
            start = min(SUM_BYTES - len(self._rest), len(view))
            self._rest += bytes(view[:start])
            if len(self._rest) == SUM_BYTES:
                self._sum(self._rest)
                self._rest = b""
        whole = start + (len(view) - start) // SUM_BYTES * SUM_BYTES if not self._rest else start
        for place in range(start, whole, SUM_BYTES):
            self._sum(view[place : place + SUM_BYTES])
        self._rest += bytes(view[whole:])

    def finish(self) -> tuple[str, bytes]:
        """Closes the file; returns its SHA-256 (hex) and its checksums."""
        if self._rest:
            self._sum(self._rest)
        self._file.close()
        return self._sha256.hexdigest(), bytes(self._sums)

    def close(self) -> None:
        self._file.close()

    def _sum(self, data: bytes | memoryview) -> None:
        self._sums += zlib.crc32(data).to_bytes(4, "little")


class ShardWriter:
    """Writer of one shard: `add` blocks of documents, then `commit`.

    Everything is written to files in a temporary folder of its own: beside the shard, or on the local disk if the store
    is in an object store. Memory does not grow with the shard. As a context manager it removes them.

    Attributes:
        index: number of the shard.
        n_documents, n_tokens, n_bytes: totals so far.
    """

    def __init__(self, directory: Any, index: int, *, dtype: np.dtype, named: bool = False) -> None:
        """Opens a shard.

        Args:
            directory: folder of the store.
            index: number of the shard.
            dtype: type of the ids.
            named: whether the documents have names.
        """
        self.index, self.n_documents, self.n_tokens, self.n_bytes = index, 0, 0, 0
        self._directory, self._name, self._dtype = directory, shard_name(index), dtype
        self._remote = io.is_remote(directory)
        # A hidden folder with a random name, which only this process uses: two writers of a shard do not meet.
        self._folder = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{self._name}.", suffix=".tmp", dir=None if self._remote else directory)
        )
        parts = ("ids", "ends", "bytes", "crc32", *(("names",) if named else ()))
        self._files = {name: _Hashed(self._folder / name) for name in parts}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # closing a file on a full disk fails again
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def id_bytes(self) -> int:
        """Size of the ids so far (bytes)."""
        return self._files["ids"].size

    def add(self, block: Block) -> None:
        """Appends documents."""
        before = self.n_tokens + self.n_documents
        ends = before + np.cumsum(block.n_tokens.astype("<u8") + np.uint64(1))
        columns = {"ids": block.ids.astype(self._dtype, copy=False), "ends": ends.astype("<u8")}
        columns |= {"bytes": block.n_bytes.astype("<u8", copy=False), "crc32": block.crc32.astype("<u4", copy=False)}
        for name, column in columns.items():
            if len(column):
                self._files[name].write(np.ascontiguousarray(column).data)
        if "names" in self._files:
            self._files["names"].write("".join(json.dumps(name) + "\n" for name in block.names or ()).encode())
        self.n_documents += len(block)
        self.n_tokens += len(block.ids)
        self.n_bytes += int(block.n_bytes.sum())

    def commit(self, **extra: Any) -> dict[str, Any]:
        """Publishes the files, the description last, and returns it. `extra` is added to it."""
        index = _Hashed(self._folder / "index")
        for part in ("ends", "bytes", "crc32"):
            self._files[part].finish()
            with open(self._folder / part, "rb") as file:
                while data := file.read(_COPY_BYTES):
                    index.write(data)
        digests = {}
        digests["ids"], of_ids = self._files["ids"].finish()
        digests["index"], of_index = index.finish()
        (self._folder / "sums").write_bytes(of_ids + of_index)
        digests["sums"] = hashlib.sha256(of_ids + of_index).hexdigest()
        if "names" in self._files:
            digests["names"] = self._files["names"].finish()[0]
        entry = {
            "file": self._name,
            "n_documents": self.n_documents,
            "n_tokens": self.n_tokens,
            "n_bytes": self.n_bytes,
            "sha256": digests,
            **extra,
        }
        for suffix in (*FILES, *(name for name in digests if name not in FILES)):
            target = self._directory / f"{self._name}.{suffix}"
            if self._remote:
                io.remote.upload(self._folder / suffix, target)
            else:
                io.publish(self._folder / suffix, target)
        io.write_atomic(self._directory / f"{self._name}.json", to_json(entry))
        return entry
