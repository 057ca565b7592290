"""Compression job: encodes documents into a token store.

The documents are divided into units of work, which workers encode independently and write in blocks
(`encoding.py`, `engines`). Blocks are joined to shards in the order of the documents (`assembly.py`). The store is a
function of the documents, the codec and the options: source format, workers, engine, kills and restarts do not change
a byte of the shards.

    job.json        what the store is made from, while it is made
    blocks/         encoded documents that are in no finished shard yet
    tokens-*        finished shards
    manifest.json   written last
"""

import contextlib
import errno
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from compressed_lm import io
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data import blocks, manifest
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.assembly import Assembly, EmptyStore
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.encoding import Job, Task
from compressed_lm.data.engines import Engine
from compressed_lm.data.engines.local import Local
from compressed_lm.data.shards import read_description, to_json
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.io import locks, strict_json
from compressed_lm.tracking import progress as progress_lib

SHARD_BYTES = 256 << 20
"""Default size of the ids of a shard (bytes)."""

JOB_FILE = "job.json"
_VERSIONED = ("compressed_lm", "numpy", "jax")
_ATTEMPTS = 3  # of assembling a store whose blocks another process takes at the same time


def compress(
    corpus: Corpus,
    split: str,
    codec: Codec,
    out: str | os.PathLike,
    *,
    n_shards: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    max_bytes: int | None = None,
    engine: Engine | None = None,
    process_index: int = 0,
    process_count: int = 1,
    log: Callable[[str], None] = print,
) -> TokenStore | None:
    """Returns the finished token store of a corpus split, or None if other processes still have unfinished units.

    Args:
        corpus: source of the documents.
        split: split of the corpus.
        codec: codec that encodes them.
        out: folder of the store, local or in an object store; it is made, or an interrupted job in it is continued.
        n_shards: number of shards of about equal size; by default as many as `shard_bytes` needs.
        shard_bytes: size of the ids after which a shard ends.
        max_bytes: bytes of text after which the store ends; None for all documents.
        engine: what encodes the units; by default this process.
        process_index: number of this process, which encodes every `process_count`-th unit; the process that finishes
            last writes the shards. Several processes may have the same number, such as one and its replacement.
        process_count: number of processes that work on the same folder.
        log: called with one line for every shard that an earlier run finished.

    Raises:
        InputError: the corpus is missing, empty or damaged, the folder has another job or is in use, the disk is full,
            or a document does not decode to itself.
    """
    if not 0 <= process_index < process_count or n_shards == 0 or min(n_shards or 1, shard_bytes) < 1:
        raise InputError(
            f"Process {process_index} of {process_count}, {n_shards} shards and {shard_bytes} bytes a shard were "
            "requested; processes are numbered from 0, and there must be at least one shard of at least one byte."
        )
    out = io.any_path(out, "The token store")
    io.check_output(out, "The token store", folder=True)
    sharding = {"shard_bytes": shard_bytes} if n_shards is None else {"n_shards": n_shards}
    job, engine = Job(corpus, split, codec, out, max_bytes, sharding), engine or Local()
    shared = os.getpid() if process_count > 1 else None  # processes with other numbers may write at the same time
    with _disk_errors(out), locks.held(out, part=shared):
        _claim(job)
        with Assembly(job, log=log) as assembly:
            if not assembly.finished:
                (out / manifest.FILE).unlink(missing_ok=True)
            _check_space(job, assembly)
            with _progress(job, assembly, process_count) as bar:
                _run(job, assembly, engine, bar, process_index, process_count)
            if process_count == 1:
                _assemble(job, assembly)
                return _finish(job, assembly)
    return _last_process(job, engine)


def _run(job: Job, assembly: Assembly, engine: Engine, bar: progress_lib.Job, index: int = 0, count: int = 1) -> None:
    """Encodes the units of process `index` of `count`; a process alone writes shards as soon as their blocks are there.

    More than one round is needed if the limit of bytes was reached later than expected, or blocks were damaged.
    """
    before: list[Task] = []
    while tasks := list(_tasks(job, assembly, index, count)):
        if tasks == before:
            raise InputError(
                f"The workers finished, and no block of encoded documents appeared in {job.out}. All workers must "
                "reach this folder under the same path: give one on a shared file system, or in an object store."
            )
        before = tasks
        with contextlib.closing(engine.run(job, iter(tasks))) as reports:
            for report in reports:
                bar.advance(report.n_bytes)
                if report.block:
                    assembly.add(report.block)
                    if count == 1:
                        _assemble(job, assembly)


def _tasks(job: Job, assembly: Assembly, index: int, count: int) -> Iterator[Task]:
    """Yields the work of process `index` of `count`: all of it, or as much as the job's limit of bytes may need."""
    places = {}
    for place, needed in assembly.todo():
        if job.max_bytes is not None and not needed:
            places[place.unit] = place
        elif place.unit % count == index:
            yield Task(place)
    if job.max_bytes is None:
        return
    left, expected = job.max_bytes - assembly.known_bytes(), 0
    for unit in range(min(places, default=0), len(job.units) if places else 0):
        if expected >= left:
            return
        if unit in places and unit % count == index:
            yield Task(places[unit], left)
        size = job.units[unit].n_bytes
        expected += left if size is None else size


def _assemble(job: Job, assembly: Assembly) -> None:
    try:
        assembly.advance()
    except EmptyStore:
        raise corpus_lib.empty(job.corpus.spec, job.split) from None


def _last_process(job: Job, engine: Engine) -> TokenStore | None:
    """Writes the shards if all units are done; returns None otherwise. Several processes may try at the same time."""
    for attempt in range(_ATTEMPTS):
        with contextlib.ExitStack() as stack:
            stack.callback(locks.WAIT.reset, locks.WAIT.set(True))
            stack.enter_context(locks.held(job.out / "assembly"))
            if (job.out / manifest.FILE).exists():
                return TokenStore.open(job.out, fingerprint=job.codec.fingerprint)
            try:
                with Assembly(job) as assembly:
                    _assemble(job, assembly)
                    if not assembly.finished and _is_short(job, assembly):
                        with _progress(job, assembly, 1) as bar:
                            _run(job, assembly, engine, bar)
                    return _finish(job, assembly) if assembly.finished else None
            except InputError:  # in an object store, which has no locks, another process may have deleted a block
                if attempt == _ATTEMPTS - 1 or not io.is_remote(job.out):
                    raise
    return None


def _is_short(job: Job, assembly: Assembly) -> bool:
    """Whether all processes did what the sizes of the units let expect, and the limit of bytes needs more units."""
    first = min(place.unit for place, _ in assembly.todo())
    sizes = [unit.n_bytes for unit in job.units[:first]]
    return job.max_bytes is not None and bool(sizes) and (None in sizes or sum(filter(None, sizes)) >= job.max_bytes)


def _claim(job: Job) -> None:
    """Makes the folder and writes the description of the job; raises `InputError` if the folder has another job."""
    begun = next(_descriptions(job.out), None)
    if begun is not None and begun != job.description:
        differing = [key for key in job.description if begun.get(key) != job.description[key]]
        was, now = ({key: _short(value.get(key)) for key in differing} for value in (begun, job.description))
        raise InputError(
            f"The folder {job.out} has shards of another job: it was started with {was}, and now {now} was given. Give "
            "another folder for --out, remove this one, or repeat the original command."
        )
    if begun is None:
        job.corpus.probe(job.split)  # an unreadable corpus must not leave a folder behind
        job.out.mkdir(parents=True, exist_ok=True)
    if not (job.out / manifest.FILE).exists():
        io.write_atomic(job.out / JOB_FILE, to_json(job.description))


def _descriptions(out: Any) -> Iterator[dict]:
    """Yields the jobs that the files of a store's folder describe."""
    names = io.remote.sizes(out)
    if JOB_FILE in names:
        with contextlib.suppress(ValueError):
            yield strict_json.parse((out / JOB_FILE).read_bytes())
    for name in sorted(names):
        if name.startswith("tokens-") and name.endswith(".json"):
            job = read_description(out / name).get("job") or _old_job(out / name)
            if job:
                yield job


def _old_job(path: Any) -> dict | None:
    """Returns the job of a shard of format 1."""
    with contextlib.suppress(ValueError, AttributeError):
        return strict_json.parse(path.read_bytes()).get("job")
    return None


def _finish(job: Job, assembly: Assembly) -> TokenStore:
    """Writes the manifest, removes what is no longer needed, and returns the store."""
    assert assembly.finished
    kept = ("job", "final")
    entries = [{k: v for k, v in assembly.shards[i].items() if k not in kept} for i in range(len(assembly.shards))]
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_bytes", "n_tokens")}
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    units = [unit.describe() for unit in job.units]
    described = {"format_version": manifest.VERSIONS[-1], **job.description, **totals}
    manifest.write(job.out, described | {"units": units, "shards": entries, "versions": versions})
    for name in io.remote.sizes(job.out / blocks.FOLDER):
        io.remote.delete(job.out / blocks.FOLDER / name)
    if not io.is_remote(job.out):
        shutil.rmtree(job.out / blocks.FOLDER, ignore_errors=True)
    io.remote.delete(job.out / JOB_FILE)
    return TokenStore.open(job.out, fingerprint=job.codec.fingerprint)


def _progress(job: Job, assembly: Assembly, process_count: int):
    known = [n for n in (job.corpus.estimated_bytes(job.split), job.max_bytes) if n is not None]
    total = min(known) if known else None
    done = min(assembly.n_bytes, total or assembly.n_bytes)
    if total is not None and process_count > 1:
        total = done + (total - done) // process_count
    return progress_lib.progress(f"compress {job.split} with {job.codec.spec}", total, unit="B", done=done)


def _check_space(job: Job, assembly: Assembly) -> None:
    """Raises InputError if the rest of the store surely does not fit on its disk."""
    size = job.corpus.estimated_bytes(job.split)
    if io.is_remote(job.out) or size is None or not assembly.todo():
        return
    size = min(size, job.max_bytes or size) - assembly.n_bytes
    free = shutil.disk_usage(job.out).free
    needed = int(size * least_bytes(job.codec))
    if needed > free:
        raise InputError(
            f"The token store {job.out} needs at least {needed / 1e9:,.1f} GB more, and its disk has "
            f"{free / 1e9:,.1f} GB free. Free some space, give a folder on a larger disk for --out, or fewer bytes "
            "(--max_bytes). What was written is kept."
        )


def least_bytes(codec: Codec) -> float:
    """Returns a lower bound of the bytes in a store for one byte of English text."""
    return 1.0 if codec.name == "bytes" else 0.15


def take_bytes(documents: Iterable[bytes], max_bytes: int | None) -> Iterator[bytes]:
    """Yields documents until they have at least `max_bytes` bytes in total."""
    taken = 0
    for document in documents:
        if max_bytes is not None and taken >= max_bytes:
            return
        taken += len(document)
        yield document


def _short(value: object) -> object:
    """Returns a codec or corpus for messages: its spec and the beginning of its fingerprint."""
    if isinstance(value, dict) and "fingerprint" in value:
        parts = (value.get("spec"), value.get("split"), str(value.get("fingerprint", ""))[:8])
        return " ".join(map(str, filter(None, parts)))
    return value


@contextlib.contextmanager
def _disk_errors(out: Any) -> Iterator[None]:
    """Raises InputError for a full disk, after the temporary files were removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"No space is left for the token store {out} ({error.strerror}). What was written is kept: its finished "
            "shards and blocks of encoded documents. Free some space, or move the folder to a larger disk, and run the "
            "same command again; it continues after them."
        ) from error
