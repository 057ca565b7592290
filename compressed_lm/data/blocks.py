"""Blocks: encoded consecutive documents of a unit of work, as the compression job keeps them until they are in a shard.

    blocks/unit-000012-0000000000-0000001345-t98765-b432100-last.block

has the documents 0 to 1344 of unit 12 (98,765 tokens of 432,100 bytes), which has no more.

A file is 8 magic bytes, the length of the header (u32), the header (JSON: counts and the fingerprint of the job), the
payload, and the CRC-32 of everything before it. The payload has the ids in the type of the store; for each document the
number of its tokens (u64), of its bytes (u64) and the CRC-32 of its text (u32); and its name as a line of JSON, if the
corpus names its documents. All numbers are little-endian.

The content of a block is a function of the documents that its name tells, so workers that write the same block write
the same bytes, and any sequence of blocks without gaps will do.
"""

import dataclasses
import json
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

FOLDER = "blocks"
_MAGIC = b"\x89CLE\r\n\x1a\n"
_NAME = re.compile(r"unit-(\d{6,9})-(\d{10,15})-(\d{10,15})-t(\d{1,15})-b(\d{1,15})(-last)?\.block")
_PER_DOCUMENT = 20  # bytes


class DamagedBlock(InputError):
    """A block that is missing, truncated or changed; its documents are encoded again."""


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Position between two documents: the next one is number `document` of unit number `unit`."""

    unit: int
    document: int


@dataclasses.dataclass(frozen=True)
class BlockName:
    """Documents `first` to `stop - 1` of a unit.

    Attributes:
        unit: number of the unit.
        first, stop: numbers of documents.
        n_tokens, n_bytes: their tokens and bytes.
        last: whether the unit has no document after them that the job needs.
    """

    unit: int
    first: int
    stop: int
    n_tokens: int
    n_bytes: int
    last: bool

    @property
    def file(self) -> str:
        """Name of its file."""
        counts = f"t{self.n_tokens}-b{self.n_bytes}{'-last' * self.last}"
        return f"unit-{self.unit:06d}-{self.first:010d}-{self.stop:010d}-{counts}.block"

    @classmethod
    def parse(cls, file: str) -> "BlockName | None":
        """Returns the block with this file name; None for another file."""
        match = _NAME.fullmatch(file)
        if not match:
            return None
        unit, first, stop, n_tokens, n_bytes = (int(number) for number in match.groups()[:5])
        return cls(unit, first, stop, n_tokens, n_bytes, last=bool(match[6]))


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Encoded documents.

    Attributes:
        ids: ids of all documents, one after the other, in the type of the store.
        n_tokens, n_bytes: u64[n], tokens and bytes of each document.
        crc32: u32[n], checksum of each document's text.
        names: name of each document, or None if the corpus does not name them.
    """

    ids: np.ndarray
    n_tokens: np.ndarray
    n_bytes: np.ndarray
    crc32: np.ndarray
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.n_tokens)

    @classmethod
    def empty(cls, dtype: np.dtype, *, named: bool = False) -> "Block":
        """Returns a block without documents."""
        none = np.zeros(0, "<u8")
        return cls(np.zeros(0, dtype), none, none, np.zeros(0, "<u4"), () if named else None)

    @classmethod
    def join(cls, parts: "Sequence[Block]") -> "Block":
        """Returns the documents of several blocks."""
        names = [p.names for p in parts]
        return cls(
            np.concatenate([p.ids for p in parts]),
            np.concatenate([p.n_tokens for p in parts]),
            np.concatenate([p.n_bytes for p in parts]),
            np.concatenate([p.crc32 for p in parts]),
            None if None in names else tuple(name for own in names for name in own or ()),
        )

    def part(self, first: int, stop: int) -> "Block":
        """Returns documents `first` to `stop - 1`."""
        before, inside = int(self.n_tokens[:first].sum()), int(self.n_tokens[first:stop].sum())
        documents = slice(first, stop)
        names = None if self.names is None else self.names[documents]
        ids = self.ids[before : before + inside]
        return Block(ids, self.n_tokens[documents], self.n_bytes[documents], self.crc32[documents], names)


def write(folder: Any, name: BlockName, block: Block, *, job: str) -> None:
    """Writes a block atomically; a block of the same name is replaced.

    Args:
        folder: the store's folder.
        name: the documents.
        block: the documents, encoded.
        job: fingerprint of the job.
    """
    names = b"" if block.names is None else "".join(json.dumps(n) + "\n" for n in block.names).encode()
    header = {"job": job, "n_documents": len(block), "itemsize": block.ids.itemsize, "names": block.names is not None}
    text = json.dumps(header | {"n_tokens": len(block.ids)}).encode()
    head = _MAGIC + struct.pack("<I", len(text)) + text
    columns = (block.ids, block.n_tokens.astype("<u8"), block.n_bytes.astype("<u8"), block.crc32.astype("<u4"))
    parts: list[Any] = [head]
    parts += [np.ascontiguousarray(column).data.cast("B") for column in columns if len(column)]
    checksum = 0
    # Not flushed to disk: a block that a loss of power damages is encoded again.
    with io.open_output(folder / FOLDER / name.file, durable=False) as file:
        for part in (*parts, names):
            checksum = zlib.crc32(part, checksum)
            file.write(part)
        file.write(struct.pack("<I", checksum))


def read(folder: Any, name: BlockName, *, job: str, dtype: np.dtype) -> Block:
    """Returns a block.

    Raises:
        DamagedBlock: it is missing, truncated or changed.
        InputError: it is of another job.
    """
    path = folder / FOLDER / name.file
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        raise DamagedBlock(f"The block {path} is missing.") from None
    if len(content) < 16 or content[:8] != _MAGIC or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise DamagedBlock(f"The block {path} is truncated or was changed.")
    (length,) = struct.unpack_from("<I", content, 8)
    try:
        header = strict_json.parse(bytes(content[12 : 12 + length]))
        n, n_tokens = header["n_documents"], header["n_tokens"]
        body = content[12 + length : -4]
        sizes = n_tokens * dtype.itemsize + n * _PER_DOCUMENT
        whole = header["itemsize"] == dtype.itemsize and n == name.stop - name.first and min(n, n_tokens) >= 0
        if header["job"] != job or not whole or len(body) < sizes or (len(body) > sizes and not header["names"]):
            raise ValueError("its header does not describe it, or it belongs to another job")
        ids = np.frombuffer(body, dtype, n_tokens)
        start = n_tokens * dtype.itemsize
        tokens, lengths = np.frombuffer(body, "<u8", 2 * n, start).reshape(2, n)
        crc32 = np.frombuffer(body, "<u4", n, start + 16 * n)
        names = tuple(json.loads(line) for line in bytes(body[sizes:]).splitlines()) if header["names"] else None
        if int(tokens.sum()) != n_tokens or (names is not None and len(names) != n):
            raise ValueError("its counts differ")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The block {path} cannot be read ({error}). Remove the folder {FOLDER} and run the same `compressed-lm "
            "compress` command again."
        ) from error
    return Block(ids, tokens, lengths, crc32, names)


def found(folder: Any) -> list[BlockName]:
    """Returns the blocks in a store's folder."""
    names = (BlockName.parse(name) for name in io.remote.sizes(folder / FOLDER))
    return sorted((name for name in names if name), key=lambda name: (name.unit, name.first, name.stop))


def chain(blocks: Iterable[BlockName], document: int) -> tuple[list[BlockName], int, bool]:
    """Returns blocks of one unit that follow each other from a document on.

    Args:
        blocks: blocks of the unit, which may overlap.
        document: number of the first document.

    Returns:
        The blocks; the number of the first document that they do not have; whether the unit ends there.
    """
    chosen: list[BlockName] = []
    left = list(blocks)
    while True:
        fits = [b for b in left if b.first <= document and (b.stop > document or b.last)]
        if not fits:
            return chosen, document, False
        best = max(fits, key=lambda b: (b.stop, b.last))
        chosen.append(best)
        document = max(document, best.stop)
        if best.last:
            return chosen, document, True
