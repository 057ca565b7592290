"""Assembly: the end of the compression job, which joins blocks to shards in the order of the documents.

Where a shard ends depends only on the documents, not on units, blocks or workers, so the same documents give the same
shards from any source and on any number of machines. A shard ends with the first document

* after which its ids have at least `shard_bytes` bytes, or it has `MOST_DOCUMENTS` documents; or
* after which the store has its share of all tokens, if the number of shards is given. Then all blocks must be there
  before the first shard is written.

A shard that is missing or damaged is made again from the documents between its neighbours.
"""

import collections
import dataclasses
import random
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from compressed_lm import io
from compressed_lm.data import blocks
from compressed_lm.data.blocks import Block, BlockName, Place
from compressed_lm.data.encoding import Job, not_lossless
from compressed_lm.data.shard_writer import ShardWriter
from compressed_lm.data.shards import MOST_DOCUMENTS, ShardReader, file_sizes, read_description, sha256_file

CHECKED_DOCUMENTS = 8
"""Documents of a shard that are read back from disk and decoded, with codecs without a model."""


@dataclasses.dataclass
class _Gap:
    """Missing shards between two finished ones, or after the last one.

    Attributes:
        index: number of the first missing shard.
        start: place of its first document.
        start_bytes: bytes of text before it.
        stop: place of the first document of the next finished shard; None after the last one.
        n_stream: tokens, and ends of documents, before the next document to add.
        n_bytes: bytes of text before it.
        limited: whether the job's limit of bytes is reached.
    """

    index: int
    start: Place
    start_bytes: int
    stop: Place | None
    n_stream: int
    n_bytes: int
    limited: bool = False


class Assembly:
    """Shards of a job: those that are finished and those to make.

    Attributes:
        shards: descriptions of the finished shards, by number. `start` and `stop` are the places of the first document
            of the shard and of the next one, `before` the tokens, with ends of documents, and bytes before it.
    """

    def __init__(self, job: Job, *, log: Callable[[str], None] | None = None) -> None:
        """Looks at a folder: lists its finished shards and its blocks.

        Args:
            job: the job.
            log: called with one line for every finished shard, after its files were read and checked; without it only
                their sizes are.
        """
        self._job, self._end_place = job, Place(len(job.units), 0)
        self.shards: dict[int, dict] = dict(_finished(job, log))
        self._blocks: dict[int, list[BlockName]] = {}
        for name in blocks.found(job.out):
            self.add(name)
        self._gaps = list(self._missing())
        self._place: Place | None = None  # of the next document to add to the first gap
        self._parts_bytes: collections.Counter[int] = collections.Counter()  # of the open shard, by part of a mixture
        self._writer: ShardWriter | None = None
        self._total: int | None = next((e["n_stream"] for e in self.shards.values() if e["n_stream"]), None)

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._writer:
            self._writer.__exit__(*exc_info)

    @property
    def n_bytes(self) -> int:
        """Bytes of text in finished shards and in blocks."""
        in_blocks = sum(name.n_bytes for names in self._blocks.values() for name in names)
        return sum(entry["n_bytes"] for entry in self.shards.values()) + in_blocks

    @property
    def finished(self) -> bool:
        """Whether all shards are there."""
        return not self._gaps

    def add(self, name: BlockName) -> None:
        """Adds a block that was written."""
        self._blocks.setdefault(name.unit, []).append(name)

    def todo(self) -> list[tuple[Place, bool]]:
        """Returns the units that have documents to encode, each with the number of the first of them.

        With each stands whether the store surely needs them, since finished shards come after them: the job's limit of
        bytes does not matter.
        """
        first: dict[int, int] = {}
        needed: set[int] = set()
        for gap in self._gaps:
            for place, ended, _ in self._units(gap):
                if not ended:
                    first[place.unit] = min(place.document, first.get(place.unit, place.document))
                    needed |= {place.unit} if gap.stop else set()
        return [(Place(unit, first[unit]), unit in needed) for unit in sorted(first)]

    def known_bytes(self) -> int:
        """Returns the bytes of text before the first document that has no block, at least."""
        if not self._gaps:
            return self.n_bytes
        total = self._gaps[-1].start_bytes
        for _, ended, n_bytes in self._units(self._gaps[-1]):
            total += n_bytes
            if not ended:
                break
        return total

    def advance(self) -> None:
        """Writes the shards for which all blocks are there.

        Raises:
            EmptyStore: there is no document.
        """
        while self._gaps and self._ready(self._gaps[0]):
            gap = self._gaps[0]
            place = self._place or gap.start
            if gap.limited or place >= (gap.stop or self._end_place):
                self._end(gap)
                continue
            found = self._next(place)
            if found is None:
                return
            block, self._place = found
            if gap.stop and self._place > gap.stop:
                block, self._place = block.part(0, gap.stop.document - place.document), gap.stop
            block, gap.n_bytes, gap.limited = self._limited(block, gap.n_bytes)
            self._feed(gap, place, block)

    def _units(self, gap: _Gap) -> Iterator[tuple[Place, bool, int]]:
        """Yields for each unit of a gap: its first document without a block, whether it has none, bytes in blocks."""
        stop = gap.stop or self._end_place
        for unit in range(gap.start.unit, stop.unit + (stop.document > 0)):
            begin = gap.start.document if unit == gap.start.unit else 0
            chosen, document, ended = blocks.chain(self._blocks.get(unit, ()), begin)
            ended = ended or (unit == stop.unit and document >= stop.document)
            yield Place(unit, document), ended, sum(name.n_bytes for name in chosen if name.first >= begin)

    def _missing(self) -> Iterator[_Gap]:
        """Yields the gaps between finished shards, and after the last one if the store may go on."""
        index, place, n_stream, n_bytes, final = 0, Place(0, 0), 0, 0, False
        for found in sorted(self.shards):
            entry = self.shards[found]
            if found > index:
                yield _Gap(index, place, n_bytes, Place(*entry["start"]), n_stream, n_bytes)
            n_stream = entry["before"][0] + entry["n_tokens"] + entry["n_documents"]
            n_bytes = entry["before"][1] + entry["n_bytes"]
            index, place, final = found + 1, Place(*entry["stop"]), entry["final"]
        if not final:
            yield _Gap(index, place, n_bytes, None, n_stream, n_bytes)

    def _ready(self, gap: _Gap) -> bool:
        """Whether it is known where the shards of a gap end."""
        if "shard_bytes" in self._job.sharding or self._total is not None:
            return True
        if not self._has_all(gap):
            return False
        total = sum(len(block) + len(block.ids) for block in self._parts(gap))
        if not self._has_all(gap):  # a block was damaged
            return False
        self._total = total
        return True

    def _has_all(self, gap: _Gap) -> bool:
        """Whether all documents of a gap have blocks, up to the job's limit."""
        most = self._job.max_bytes
        return all(ended for _, ended, _ in self._units(gap)) or (most is not None and self.known_bytes() >= most)

    def _parts(self, gap: _Gap) -> Iterator[Block]:
        """Yields the documents of a gap, up to the job's limit."""
        n_bytes, place, limited = gap.n_bytes, gap.start, False
        while not limited and (found := self._next(place)) is not None:
            block, place = found
            block, n_bytes, limited = self._limited(block, n_bytes)
            yield block

    def _next(self, place: Place) -> tuple[Block, Place] | None:
        """Returns the documents from a place to the end of a block, and that end; None if there is no block."""
        chosen, _, _ = blocks.chain(self._blocks.get(place.unit, ()), place.document)
        if not chosen:
            return None
        name = chosen[0]
        try:
            block = blocks.read(self._job.out, name, job=self._job.fingerprint, dtype=self._job.dtype)
        except blocks.DamagedBlock:
            io.remote.delete(self._job.out / blocks.FOLDER / name.file)
            self._blocks[name.unit].remove(name)
            return self._next(place)
        after = Place(place.unit + 1, 0) if name.last else Place(place.unit, name.stop)
        return block.part(max(place.document - name.first, 0), len(block)), after

    def _limited(self, block: Block, n_bytes: int) -> tuple[Block, int, bool]:
        """Returns a block up to the job's limit, the bytes of text after it, and whether the limit is reached."""
        sizes = n_bytes + np.cumsum(block.n_bytes, dtype=np.int64)
        most = self._job.max_bytes
        if not len(block) or most is None or sizes[-1] < most:
            return block, int(sizes[-1]) if len(block) else n_bytes, False
        n = int(np.searchsorted(sizes, most)) + 1
        return block.part(0, n), int(sizes[n - 1]), True

    def _feed(self, gap: _Gap, place: Place, block: Block) -> None:
        """Adds documents to the open shard. A full shard is published when it is known where the next one starts."""
        done = 0
        while done < len(block):
            here = Place(place.unit, place.document + done)
            writer = self._opened(gap, here)
            n = self._fitting(gap, writer, block.part(done, len(block)))
            if n == 0:
                self._publish(gap, here)
                continue
            part = block.part(done, done + n)
            writer.add(part)
            if number := self._job.units[place.unit].part[:1]:
                self._parts_bytes[number[0]] += int(part.n_bytes.sum())
            gap.n_stream += len(part) + len(part.ids)
            done += n

    def _fitting(self, gap: _Gap, writer: ShardWriter, block: Block) -> int:
        """Returns how many documents of a block belong to the open shard; 0 if it is full."""
        most = len(block)
        if "n_shards" in self._job.sharding:
            n_shards = self._job.sharding["n_shards"]
            if gap.index == n_shards - 1:
                return most
            assert self._total is not None
            room = -(-self._total * (gap.index + 1) // n_shards) - gap.n_stream
            sizes = np.cumsum(block.n_tokens + np.uint64(1))
        else:
            room = self._job.sharding["shard_bytes"] - writer.id_bytes
            sizes = np.cumsum(block.n_tokens) * np.uint64(self._job.dtype.itemsize)
            most = min(most, MOST_DOCUMENTS - writer.n_documents)
        return min(int(np.searchsorted(sizes, room)) + 1, most) if room > 0 else 0

    def _end(self, gap: _Gap) -> None:
        """Publishes the last shards of a gap."""
        stop = gap.stop or self._end_place
        last = self._job.sharding.get("n_shards", gap.index + 1) - 1
        if gap.stop is None and not gap.n_stream:
            raise EmptyStore
        while gap in self._gaps:
            self._opened(gap, stop)
            self._publish(gap, stop, final=gap.stop is None and gap.index == last)

    def _opened(self, gap: _Gap, place: Place) -> ShardWriter:
        if self._writer is None:
            named = self._job.corpus.has_ids
            self._writer = ShardWriter(self._job.out, gap.index, dtype=self._job.dtype, named=named)
            gap.start = place
        return self._writer

    def _publish(self, gap: _Gap, stop: Place, *, final: bool = False) -> None:
        """Finishes the open shard, and deletes the blocks that only it needed."""
        writer, self._writer = self._writer, None
        assert writer
        parts = {str(number): self._parts_bytes[number] for number in sorted(self._parts_bytes)}
        self._parts_bytes.clear()
        with writer:
            entry = writer.commit(
                job=self._job.description,
                **({"bytes_of_parts": parts} if parts else {}),
                start=[gap.start.unit, gap.start.document],
                stop=[stop.unit, stop.document],
                before=[gap.n_stream - writer.n_tokens - writer.n_documents, gap.start_bytes],
                n_stream=self._total,
                final=final,
            )
        self._check(entry)
        self.shards[gap.index] = entry
        gap.index, gap.start, gap.start_bytes = gap.index + 1, stop, gap.start_bytes + entry["n_bytes"]
        if final or gap.index in self.shards:
            self._gaps.remove(gap)
            self._place = None
        if "shard_bytes" in self._job.sharding:
            self._delete(before=stop)

    def _delete(self, *, before: Place) -> None:
        """Deletes blocks of documents before a place."""
        for unit in [unit for unit in self._blocks if unit <= before.unit]:
            for name in list(self._blocks[unit]):
                if unit < before.unit or (name.stop <= before.document and not name.last):
                    io.remote.delete(self._job.out / blocks.FOLDER / name.file)
                    self._blocks[unit].remove(name)

    def _check(self, entry: dict) -> None:
        """Decodes some documents of a shard from the disk and compares lengths and checksums."""
        codec, n = self._job.codec, entry["n_documents"]
        if codec.flops_per_byte:  # workers have the devices
            return
        reader = ShardReader(self._job.out, entry, vocab_size=codec.vocab_size, eod_id=codec.vocab_size)
        for index in random.Random(entry["file"]).sample(range(n), min(CHECKED_DOCUMENTS, n)):
            (record,) = reader.read(index, index + 1)
            text = codec.decode(record.ids)
            if (len(text), zlib.crc32(text)) != (record.n_bytes, record.crc32):
                io.remote.delete(self._job.out / f"{entry['file']}.json")
                raise not_lossless(
                    f"Document {index} of {entry['file']}", codec, "its record on disk decodes to another text"
                )


class EmptyStore(Exception):
    """The corpus has no document."""


def _finished(job: Job, log: Callable[[str], None] | None) -> Iterator[tuple[int, dict]]:
    """Yields (number, description) of the shards that an earlier run finished; damaged ones are left out."""
    sizes, read = io.remote.sizes(job.out), log is not None
    log = log or (lambda line: None)
    for name in sorted(name for name in sizes if name.startswith("tokens-") and name.endswith(".json")):
        entry = read_description(job.out / name)
        if not entry or entry.get("job") != job.description:
            continue
        damaged = next(_damaged(job, entry, sizes, read=read), None)
        if damaged:
            log(f"{entry['file']}: {damaged} is damaged or missing; the shard is made again")
            io.remote.delete(job.out / name)
        else:
            log(f"{entry['file']}: already finished, {entry['n_documents']:,} documents kept")
            yield int(entry["file"].removeprefix("tokens-")), entry


def _damaged(job: Job, entry: dict, sizes: dict[str, int], *, read: bool) -> Iterator[str]:
    """Yields the files of a shard that are missing or damaged; with `read`, local files are read."""
    expected = file_sizes(entry, job.dtype.itemsize)
    for suffix, digest in entry["sha256"].items():
        file = f"{entry['file']}.{suffix}"
        if file not in sizes or sizes[file] != expected.get(suffix, sizes[file]):
            yield file
        elif read and not io.is_remote(job.out) and sha256_file(job.out / file) != digest:
            yield file
