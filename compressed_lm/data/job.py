"""Compression job: encodes documents into a token store.

The work is divided into shards that depend only on the corpus, the codec and the options. A shard is encoded in batches
of bounded size, read back, partly decoded and compared with its documents, and then marked as finished. If the job is
killed, the next run redoes only the unfinished shards and gives the same bytes.
"""

import collections
import concurrent.futures
import contextlib
import errno
import importlib.metadata
import pathlib
import random
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator

from compressed_lm.codecs.protocol import Codec, eod_id
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.shards import ShardWriter, read_description, sha256_file, shard_name
from compressed_lm.data.store import FORMAT_VERSION, MANIFEST, TokenStore, write_manifest
from compressed_lm.errors import InputError
from compressed_lm.io import check_output, local_path, locks
from compressed_lm.tracking.progress import progress

CHECKED_SHARE = 0.01
"""Share of documents that are decoded as a check, for codecs that run a model; for other codecs all are."""

CHECKED_DOCUMENTS = 8
"""Smallest number of checked documents per shard."""

_VERSIONED = ("compressed_lm", "numpy", "array_record", "jax")


def compress(
    corpus: Corpus,
    split: str,
    codec: Codec,
    out: str | pathlib.Path,
    *,
    n_shards: int = 4,
    max_bytes: int | None = None,
    batch_bytes: int = 1 << 20,
    process_index: int = 0,
    process_count: int = 1,
    log: Callable[[str], None] = print,
) -> TokenStore | None:
    """Returns the finished token store of a corpus split, or None if other processes still have unfinished shards.

    Every document is decoded and compared with the original after it is encoded. With codecs that run a model
    (`flops_per_byte` above 0) it is 1% of the documents, and at least 8 per shard. 8 more are read back from disk.

    Args:
        corpus: source of the documents.
        split: split of the corpus.
        codec: codec that encodes them.
        out: folder of the store; it is made, or an interrupted job in it is continued.
        n_shards: number of shards.
        max_bytes: limit of the bytes of text, divided equally among the shards; None for all documents.
        batch_bytes: bytes of text per call of the codec; it bounds memory and does not change the tokens.
        process_index: number of this process, which encodes every `process_count`-th shard; the process that finishes
            last writes the manifest.
        process_count: number of processes that work on the same folder.
        log: called with one line for every shard that an earlier run finished.

    Raises:
        InputError: the corpus is missing, empty or damaged, the folder has another job or is in use, the disk is full,
            or a document does not decode to itself.
    """
    if n_shards < 1 or not 0 <= process_index < process_count:
        raise InputError(
            f"Process {process_index} of {process_count} and {n_shards} shards were requested; there must be at least "
            "one shard, and processes are numbered from 0."
        )
    out = local_path(out, "The token store")
    check_output(out, "The token store", folder=True)
    job = {
        "codec": {
            "name": codec.name,
            "spec": codec.spec,
            "fingerprint": codec.fingerprint,
            "vocab_size": int(codec.vocab_size),
            "window_bits": codec.window_bits,
            "m1_hash": codec.m1_hash,
            **({"eod_id": end} if (end := int(eod_id(codec))) < codec.vocab_size else {}),
        },
        "corpus": corpus.describe(split),
        "max_bytes": max_bytes,
        "n_shards": n_shards,
    }
    with _disk_errors(out), locks.held(out, part=process_index if process_count > 1 else None):
        if not out.exists():  # an unreadable corpus must not leave a folder behind
            corpus.probe(split)
        out.mkdir(parents=True, exist_ok=True)
        _refuse_another_job(out, job)
        names = {shard: shard_name(shard, n_shards) for shard in range(process_index, n_shards, process_count)}
        finished = {shard: entry for shard, name in names.items() if (entry := _finished(out, name, log))}
        todo = [shard for shard in names if shard not in finished]
        if todo:
            (out / MANIFEST).unlink(missing_ok=True)
            done = sum(entry["n_bytes"] for entry in finished.values())
            total = _estimate(corpus.estimated_bytes(split), max_bytes, len(names) / n_shards)
            waiting = _Waiting()
            with (
                contextlib.ExitStack() as stack,
                progress(f"compress {split} with {codec.spec}", total, unit="B", done=done) as bar,
            ):
                for shard in todo:
                    documents = corpus.documents(split, shard=shard, n_shards=n_shards)
                    read = _batches(take_bytes(documents, _share(max_bytes, shard, n_shards)), batch_bytes)
                    batches = stack.enter_context(contextlib.closing(waiting.read_ahead(read)))
                    with ShardWriter(out, names[shard], vocab_size=codec.vocab_size) as writer:
                        chosen = random.Random(shard)
                        for batch in batches:
                            _encode(batch, codec, writer, names[shard], chosen)
                            share = waiting.seconds / max(bar.seconds, 1e-9)
                            bar.advance(sum(map(len, batch)), shard=shard, waiting_for_input=f"{share:.0%}")
                        writer.close()
                        _verify(writer, codec, names[shard], chosen)
                        writer.commit(job=job)
        return _finish(out, job)


def _refuse_another_job(out: pathlib.Path, job: dict) -> None:
    """Raises `InputError` where finished shards in the folder have another corpus, codec or options."""
    for path in sorted(out.glob("tokens-*.json")):
        begun = read_description(path).get("job")
        if begun and begun != job:
            differing = [key for key in job if begun.get(key) != job[key]]
            was, now = ({key: _short(value[key]) for key in differing} for value in (begun, job))
            raise InputError(
                f"The folder {out} has shards of another job: it was started with {was}, and now {now} was given. Give "
                "another folder for --out, remove this one, or repeat the original command."
            )


def _finished(out: pathlib.Path, name: str, log: Callable[[str], None]) -> dict | None:
    """Returns the description of a shard that an earlier run finished; None if there is none or it is damaged."""
    entry = read_description(out / f"{name}.json")
    if not entry:
        return None
    for path, expected in (
        (out / entry["file"], entry["sha256"]),
        (out / f"{name}.lengths.npy", entry["lengths_sha256"]),
    ):
        if not path.exists() or sha256_file(path) != expected:
            log(f"{name}: {path.name} is damaged or missing; the shard is encoded again")
            (out / f"{name}.json").unlink()
            return None
    log(f"{name}: already finished, {entry['n_documents']:,} documents kept")
    return entry


def _finish(out: pathlib.Path, job: dict) -> TokenStore | None:
    """Writes the manifest and returns the store if every shard is finished; otherwise returns None."""
    entries = [read_description(out / f"{shard_name(shard, job['n_shards'])}.json") for shard in range(job["n_shards"])]
    if not all(entries):
        return None
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_bytes", "n_tokens")}
    if totals["n_documents"] == 0:
        raise corpus_lib.empty(job["corpus"]["spec"], job["corpus"]["split"])
    _refuse_another_job(out, job)  # a process with another codec may have written some of them in between
    shards = [{key: value for key, value in entry.items() if key != "job"} for entry in entries]
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    manifest = {"format_version": FORMAT_VERSION, **job, **totals, "shards": shards, "versions": versions}
    write_manifest(out, manifest)
    return TokenStore.open(out, fingerprint=job["codec"]["fingerprint"])


def _encode(batch: list[bytes], codec: Codec, writer: ShardWriter, shard: str, chosen: random.Random) -> None:
    """Encodes documents into a shard; decodes the checked ones and compares them."""
    encoded, first = codec.encode_batch(batch), len(writer)
    checked = [
        i
        for i in range(len(batch))
        if codec.flops_per_byte == 0 or first + i < CHECKED_DOCUMENTS or chosen.random() < CHECKED_SHARE
    ]
    for i, restored in zip(checked, codec.decode_batch([encoded[i] for i in checked]), strict=True):
        original = batch[i]
        if restored != original:
            pair = zip(original, restored, strict=False)
            differs = next((k for k, (a, b) in enumerate(pair) if a != b), min(len(original), len(restored)))
            raise _not_lossless(
                f"Document {first + i} of {shard}",
                codec,
                f"of its {len(original):,} bytes, byte {differs} is the first that differs "
                f"({original[differs : differs + 8]!r} became {restored[differs : differs + 8]!r})",
            )
    for document, ids in zip(batch, encoded, strict=True):
        writer.add(ids, document)


def _verify(writer: ShardWriter, codec: Codec, shard: str, chosen: random.Random) -> None:
    """Decodes some documents from the disk and compares lengths and checksums."""
    positions = sorted(chosen.sample(range(len(writer)), min(CHECKED_DOCUMENTS, len(writer))))
    records = writer.read(positions) if positions else []
    restored = codec.decode_batch([record.ids for record in records]) if records else []
    for index, record, document in zip(positions, records, restored, strict=True):
        if (len(document), zlib.crc32(document)) != (record.n_bytes, record.crc32):
            raise _not_lossless(f"Document {index} of {shard}", codec, "its record on disk decodes to another text")


def _not_lossless(document: str, codec: Codec, how: str) -> InputError:
    return InputError(
        f"{document} does not decode to itself with codec {codec.spec}: {how}. The shard was not kept. Run "
        "`compressed-lm verify` on the codec: either its files are damaged, or this machine computes M1 differently "
        "from the one that built the codec."
    )


class _Waiting:
    """Prefetcher of batches in a thread, which measures how long the job waits for input (`seconds`)."""

    AHEAD = 2

    def __init__(self) -> None:
        self.seconds = 0.0

    def read_ahead(self, batches: Iterator[list[bytes]]) -> Generator[list[bytes], None, None]:
        """Yields the batches."""
        with concurrent.futures.ThreadPoolExecutor(1, "documents") as reader:
            pending = collections.deque(reader.submit(next, batches, None) for _ in range(self.AHEAD))
            while True:
                start = time.monotonic()
                batch = pending.popleft().result()
                self.seconds += time.monotonic() - start
                if batch is None:
                    return
                pending.append(reader.submit(next, batches, None))
                yield batch


def _batches(documents: Iterable[bytes], batch_bytes: int) -> Iterator[list[bytes]]:
    """Yields batches of consecutive documents; a batch ends when it has at least `batch_bytes` bytes."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def take_bytes(documents: Iterable[bytes], max_bytes: int | None) -> Iterator[bytes]:
    """Yields documents until they have at least `max_bytes` bytes in total."""
    taken = 0
    for document in documents:
        if max_bytes is not None and taken >= max_bytes:
            return
        taken += len(document)
        yield document


def _share(max_bytes: int | None, shard: int, n_shards: int) -> int | None:
    """Returns this shard's part of `max_bytes`; the parts sum to it."""
    return None if max_bytes is None else max_bytes * (shard + 1) // n_shards - max_bytes * shard // n_shards


def _estimate(n_bytes: int | None, max_bytes: int | None, share: float) -> int | None:
    """Returns about how many bytes this process will read, where that is known."""
    known = [size for size in (n_bytes, max_bytes) if size is not None]
    return round(min(known) * share) if known else None


def _short(value: object) -> object:
    """Returns a codec or corpus for messages: its spec and the beginning of its fingerprint."""
    if isinstance(value, dict):
        parts = (value.get("spec"), value.get("split"), str(value.get("fingerprint", ""))[:8])
        return " ".join(map(str, filter(None, parts)))
    return value


@contextlib.contextmanager
def _disk_errors(out: pathlib.Path) -> Iterator[None]:
    """Raises InputError for a full disk, after the unfinished shard's temporary file was removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        finished = len(list(out.glob("tokens-*.json")))
        raise InputError(
            f"No space is left for the token store {out} ({error.strerror}). Its {finished} finished shards are kept, "
            "and the unfinished one was removed. Free some space, or move the folder to a larger disk, and run the "
            "same command again; it continues after the finished shards."
        ) from error
