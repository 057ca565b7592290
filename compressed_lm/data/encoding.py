"""Encoding of units of work into blocks: the part of the compression job that a worker does.

Every document is decoded and compared with the original after it is encoded. With codecs that run a model
(`flops_per_byte` above 0), which decode slowly, it is 1 % of the documents, and the first of each unit.
"""

import collections
import dataclasses
import functools
import hashlib
import random
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from compressed_lm.codecs.protocol import Codec, eod_id
from compressed_lm.data import blocks
from compressed_lm.data.blocks import Block, BlockName, Place
from compressed_lm.data.corpus import Corpus, Document, Unit
from compressed_lm.data.shards import id_dtype, to_json
from compressed_lm.errors import InputError

BLOCK_BYTES = 64 << 20
"""Bytes of text after which finished documents are written."""

BLOCK_SECONDS = 60.0
"""Time after which finished documents are written (seconds)."""

BATCH_BYTES = 1 << 20
"""Bytes of text that are checked together."""

CHECKED_SHARE = 0.01
"""Share of documents that are decoded as a check, for codecs that run a model; for other codecs all are."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A compression job. It pickles, so that workers of any engine can have it.

    Attributes:
        corpus, split: the documents.
        codec: codec that encodes them.
        out: folder of the store, local or in an object store.
        max_bytes: bytes of text after which the store ends, or None.
        sharding: {"shard_bytes": n} or {"n_shards": n}.
    """

    corpus: Corpus
    split: str
    codec: Codec
    out: Any
    max_bytes: int | None
    sharding: dict[str, int]

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """Units of work."""
        return self.corpus.units(self.split)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What determines the content of the store, as JSON."""
        codec = self.codec
        return {
            "codec": {
                "name": codec.name,
                "spec": codec.spec,
                "fingerprint": codec.fingerprint,
                "vocab_size": int(codec.vocab_size),
                "window_bits": codec.window_bits,
                "m1_hash": codec.m1_hash,
                **({"eod_id": end} if (end := int(eod_id(codec))) < codec.vocab_size else {}),
            },
            "corpus": self.corpus.describe(self.split),
            "max_bytes": self.max_bytes,
            "sharding": self.sharding,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of the description."""
        return hashlib.sha256(to_json(self.description)).hexdigest()

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids in files."""
        return id_dtype(self.codec.vocab_size)

    @property
    def empty(self) -> Block:
        """A block without documents."""
        return Block.empty(self.dtype, named=self.corpus.has_ids)


@dataclasses.dataclass(frozen=True)
class Task:
    """Work on one unit.

    Attributes:
        place: unit, and number of its first document to encode.
        max_bytes: bytes of text after which the unit ends for this job; None for its own end.
    """

    place: Place
    max_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Progress:
    """Report of a worker.

    Attributes:
        n_bytes: bytes of text that were encoded since its last report.
        block: a block that was written, or None.
    """

    n_bytes: int
    block: BlockName | None = None


def encode(job: Job, tasks: Iterable[Task]) -> Iterator[Progress]:
    """Encodes units one after the other and writes their blocks.

    The codec reads ahead over the ends of documents and units, so that devices stay busy.

    Raises:
        InputError: a document cannot be read, or does not decode to itself. The documents before it are written.
    """
    source = _Source(job, tasks)
    writer: _UnitWriter | None = None
    for ids in job.codec.encode_stream(source.texts()):
        for ended in source.ends():
            yield from _finished(job, writer, ended)
            writer = None
        task, number, document = source.pending.popleft()
        assert document is not None  # ends were taken above
        if writer is None:
            writer = _UnitWriter(job, task)
        yield from writer.add(number, document, ids)
    for ended in source.ends():
        yield from _finished(job, writer, ended)
        writer = None
    if source.error is not None:
        if writer is not None:
            yield from writer.finish(last=False)
        raise source.error


def encode_rest(job: Job, task: Task) -> None:
    """Encodes the documents of a unit that no earlier attempt wrote; for engines that try again elsewhere."""
    unit = task.place.unit
    written = [name for name in blocks.found(job.out) if name.unit == unit]
    _, document, ended = blocks.chain(written, task.place.document)
    if not ended:
        for _ in encode(job, iter([Task(Place(unit, document), task.max_bytes)])):
            pass


class _Source:
    """Documents of several units for a codec, and those that it has not encoded yet (`pending`)."""

    def __init__(self, job: Job, tasks: Iterable[Task]) -> None:
        self._job, self._tasks = job, tasks
        self.error: Exception | None = None
        self.pending: collections.deque[tuple[Task, int, Document | None]] = collections.deque()

    def texts(self) -> Iterator[bytes]:
        """Yields documents. An error ends them and is kept, so that the documents before it can be written."""
        try:
            yield from self._texts()
        except Exception as error:
            self.error = error

    def _texts(self) -> Iterator[bytes]:
        for task in self._tasks:
            unit, number, n_bytes = self._job.units[task.place.unit], task.place.document, 0
            for document in self._job.corpus.read(self._job.split, unit, skip=number):
                self.pending.append((task, number, document))
                yield document.text
                number += 1
                n_bytes += len(document.text)
                if task.max_bytes is not None and n_bytes >= task.max_bytes:
                    break
            self.pending.append((task, number, None))

    def ends(self) -> Iterator[Task]:
        """Yields the units that end before the next pending document."""
        while self.pending and self.pending[0][2] is None:
            yield self.pending.popleft()[0]


def _finished(job: Job, writer: "_UnitWriter | None", task: Task) -> Iterator[Progress]:
    yield from (writer or _UnitWriter(job, task)).finish()


class _UnitWriter:
    """Checks the encoded documents of a unit and writes them in blocks."""

    def __init__(self, job: Job, task: Task) -> None:
        self._job, self._unit = job, task.place.unit
        self._first = self._next = task.place.document
        self._parts: list[Block] = []
        self._texts: list[Document] = []
        self._ids: list[np.ndarray] = []
        self._batch_bytes = self._block_bytes = 0
        self._written = time.monotonic()

    def add(self, number: int, document: Document, ids: np.ndarray) -> Iterator[Progress]:
        assert number == self._next + len(self._texts)
        self._texts.append(document)
        self._ids.append(ids)
        self._batch_bytes += len(document.text)
        late = time.monotonic() - self._written > BLOCK_SECONDS
        if self._batch_bytes >= BATCH_BYTES or late:
            yield from self._end_batch()
            if late or self._block_bytes >= BLOCK_BYTES:
                yield self._end_block(last=False)

    def finish(self, *, last: bool = True) -> Iterator[Progress]:
        yield from self._end_batch()
        yield self._end_block(last=last)

    def _end_batch(self) -> Iterator[Progress]:
        """Checks the documents that were added."""
        if not self._texts:
            return
        texts = [document.text for document in self._texts]
        self._check(texts)
        lengths = np.fromiter(map(len, texts), "<u8", len(texts))
        ids = np.concatenate(self._ids) if len(self._ids) > 1 else self._ids[0]  # a large document is not copied
        if len(ids) and ids.view(np.uint32).max() >= self._job.codec.vocab_size:
            raise ValueError(
                f"The codec returned ids between {ids.min()} and {ids.max()}, outside its vocabulary 0 to "
                f"{self._job.codec.vocab_size - 1}."
            )
        n_tokens = np.fromiter(map(len, self._ids), "<u8", len(texts))
        crc32 = np.fromiter(map(zlib.crc32, texts), "<u4", len(texts))
        names = tuple(document.id or "" for document in self._texts) if self._job.corpus.has_ids else None
        self._parts.append(Block(ids.astype(self._job.dtype), n_tokens, lengths, crc32, names))
        self._next += len(texts)
        n_bytes, self._batch_bytes, self._texts, self._ids = self._batch_bytes, 0, [], []
        self._block_bytes += n_bytes
        yield Progress(n_bytes)

    def _end_block(self, *, last: bool) -> Progress:
        block = Block.join([self._job.empty, *self._parts])
        counts = len(block.ids), self._block_bytes
        name = BlockName(self._unit, self._first, self._next, *counts, last)
        blocks.write(self._job.out, name, block, job=self._job.fingerprint)
        self._parts, self._first, self._block_bytes = [], self._next, 0
        self._written = time.monotonic()
        return Progress(0, name)

    def _check(self, texts: list[bytes]) -> None:
        """Decodes documents and compares them."""
        codec, first = self._job.codec, self._next
        checked: Iterable[int] = range(len(texts))
        if codec.flops_per_byte:
            draws = (random.Random(f"{self._unit} {first + i}").random() for i in range(len(texts)))
            checked = [i for i, draw in enumerate(draws) if draw < CHECKED_SHARE or first + i == 0]
        chosen = [self._ids[i] for i in checked]
        restored = codec.decode_known(chosen, [texts[i] for i in checked]) if chosen else []
        if restored == (texts if len(restored) == len(texts) else [texts[i] for i in checked]):
            return
        for i, text in zip(checked, restored, strict=True):
            if text != texts[i]:
                pair = zip(texts[i], text, strict=False)
                differs = next((k for k, (a, b) in enumerate(pair) if a != b), min(len(texts[i]), len(text)))
                raise not_lossless(
                    f"Document {first + i} of unit {self._unit} ({self._job.units[self._unit].spans[0].name})",
                    codec,
                    f"of its {len(texts[i]):,} bytes, byte {differs} is the first that differs "
                    f"({texts[i][differs : differs + 8]!r} became {text[differs : differs + 8]!r})",
                )


def not_lossless(document: str, codec: Codec, how: str) -> InputError:
    """Returns the error of a document that does not decode to itself."""
    return InputError(
        f"{document} does not decode to itself with codec {codec.spec}: {how}. It was not kept. Run "
        "`compressed-lm verify` on the codec: either its files are damaged, or this machine computes M1 differently "
        "from the one that built the codec."
    )
