"""Dry run of a compression job: what a store will hold and cost, from a sample of the corpus and a measured speed."""

import dataclasses
import time
import zlib
from collections.abc import Callable

from rich import box
from rich.table import Table

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.shards import id_dtype
from compressed_lm.errors import InputError

SAMPLE_BYTES = 8 << 20
_SAMPLED_UNITS = 8
_PER_DOCUMENT = 20.1  # bytes in .index and .sums
_MODEL_BYTES_PER_SLOT = 256
_WARM_BYTES = 16
_WORKER_BYTES = 0.6e9  # a worker of a codec without M1, measured: see docs/guides/compress_c4.md


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Expected content and cost of a token store.

    Attributes:
        n_bytes: bytes of text.
        n_documents, n_tokens: counts.
        store_bytes: size of the finished store (bytes).
        n_shards: number of shards.
        n_units: units of work: at most so many workers are busy.
        read_bytes_per_second, encode_bytes_per_second: measured speed of one worker, in bytes of text.
        hours: expected time with all workers.
        workers: processes that encode.
        memory_bytes: memory of all workers (bytes).
        sampled_bytes: bytes of text in the sample.
    """

    n_bytes: int
    n_documents: int
    n_tokens: int
    store_bytes: int
    n_shards: int
    n_units: int
    read_bytes_per_second: float
    encode_bytes_per_second: float
    hours: float
    workers: int
    memory_bytes: int
    sampled_bytes: int


def estimate(
    corpus: Corpus,
    split: str,
    codec: Codec,
    *,
    workers: int = 1,
    shard_bytes: int,
    n_shards: int | None = None,
    max_bytes: int | None = None,
    corpus_bytes: int | None = None,
    slots: int = 1,
    sample_bytes: int = SAMPLE_BYTES,
) -> Estimate:
    """Reads documents from units spread over a corpus, encodes some, and returns what the whole will take.

    Args:
        corpus, split: the documents.
        codec: codec that encodes them.
        workers: processes on all machines; their speed is taken to be that of this process, alone.
        shard_bytes, n_shards, max_bytes: as of `compress`.
        corpus_bytes: bytes of text of the whole corpus, if the one at hand is a sample of it; the whole is taken to be
            in units of the usual size.
        slots: batch slots of all local devices, for codecs that run M1; they are filled once.
        sample_bytes: bytes of text to read.

    Raises:
        InputError: the size of the corpus is unknown, or it has no document.
    """
    units = corpus.units(split)
    total = corpus_bytes or corpus.estimated_bytes(split)
    n_units = len(units) if corpus_bytes is None else -(-corpus_bytes // corpus_lib.UNIT_BYTES)
    if total is None and max_bytes is None:
        raise InputError(
            f"The size of the corpus {corpus.spec} is unknown before it is read, so its cost cannot be estimated. Give "
            "the bytes of text that are to be used (--max_bytes)."
        )
    total = min(n for n in (total, max_bytes) if n is not None)
    chosen = [units[i * len(units) // min(_SAMPLED_UNITS, len(units))] for i in range(min(_SAMPLED_UNITS, len(units)))]
    texts: list[bytes] = []
    started = time.perf_counter()
    for unit in chosen:
        size = 0
        for document in corpus.read(split, unit):
            texts.append(document.text)
            size += len(document.text)
            if size >= sample_bytes // len(chosen):
                break
    reading = time.perf_counter() - started
    sampled = sum(map(len, texts))
    if not sampled:
        raise InputError(f"The corpus {corpus.spec} has no text in its split {split!r}. Check its files.")
    measure: Callable = _with_model if codec.flops_per_byte else _without_model
    tokens_per_byte, speed = measure(codec, texts, slots)
    n_documents = round(total * len(texts) / sampled)
    n_tokens = round(total * tokens_per_byte)
    id_bytes = n_tokens * id_dtype(codec.vocab_size).itemsize
    busy = min(workers, n_units)
    read_speed = sampled / max(reading, 1e-9)
    return Estimate(
        n_bytes=total,
        n_documents=n_documents,
        n_tokens=n_tokens,
        store_bytes=round(id_bytes * 1.001 + n_documents * _PER_DOCUMENT),
        n_shards=n_shards or max(1, -(-id_bytes // shard_bytes)),
        n_units=n_units,
        read_bytes_per_second=read_speed,
        encode_bytes_per_second=speed,
        hours=total * (1 / read_speed + 1 / speed) / busy / 3600,
        workers=workers,
        memory_bytes=round(_WORKER_BYTES * workers),
        sampled_bytes=sampled,
    )


def _without_model(codec: Codec, texts: list[bytes], slots: int) -> tuple[float, float]:
    """Returns tokens per byte, and the speed of encoding, checking and checksums (bytes per second)."""
    del slots
    codec.decode_batch(codec.encode_batch(texts[:1]))  # compiles loops
    started = time.perf_counter()
    encoded = list(codec.encode_stream(texts))
    codec.decode_batch(encoded)
    for text in texts:
        zlib.crc32(text)
    seconds = time.perf_counter() - started
    n_bytes = sum(map(len, texts))
    return sum(map(len, encoded)) / n_bytes, n_bytes / seconds


def _with_model(codec: Codec, texts: list[bytes], slots: int) -> tuple[float, float]:
    """Returns tokens per byte, and the speed with one short text in each batch slot (bytes per second)."""
    text = b"\n".join(texts)[: slots * _MODEL_BYTES_PER_SLOT]
    size = max(len(text) // slots, 1)
    pieces = [text[i * size : (i + 1) * size] for i in range(slots)]
    list(codec.encode_stream([piece[:_WARM_BYTES] for piece in pieces]))  # compiles the programs
    started = time.perf_counter()
    encoded = list(codec.encode_stream(pieces))
    seconds = time.perf_counter() - started
    n_bytes = sum(map(len, pieces))
    return sum(map(len, encoded)) / n_bytes, n_bytes / seconds


def table(found: Estimate) -> Table:
    """Returns an estimate as a table."""
    shown = Table(box=box.SIMPLE, show_header=False)
    hours, speed = found.hours, found.encode_bytes_per_second
    for name, value in (
        ("text", f"{found.n_bytes / 1e9:,.3f} GB in {found.n_documents:,} documents; units of work: {found.n_units:,}"),
        ("tokens", f"{found.n_tokens:,} ({found.n_bytes / max(found.n_tokens, 1):.3f} bytes per token)"),
        ("store", f"{found.store_bytes / 1e9:,.3f} GB in {found.n_shards:,} shards"),
        ("speed of a worker", f"reads {found.read_bytes_per_second / 1e6:,.3f} MB/s, encodes {speed / 1e6:,.4f} MB/s"),
        ("time", f"{hours * 60:,.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"),
        ("workers", f"{found.workers:,}, of which {min(found.workers, found.n_units):,} have work"),
        ("memory", f"{found.memory_bytes / 1e9:,.1f} GB for all workers"),
        ("estimated from", f"{found.sampled_bytes / 1e6:,.1f} MB of text, measured on this machine"),
    ):
        shown.add_row(name, value)
    return shown
