"""Token stores with many documents: time and memory to open, shuffle and read them.

    python benchmarks/store.py --documents 1e8 --folder /tmp/store

makes a store of short documents (random ids below 65,536) if the folder has none. A new process then opens it, asks for
the order of training, and reads random rows of 1,024 ids as training does, with packing and prefetch. Sizes for 1e9
documents follow from the counts: what is read on opening is the manifest (one entry for each shard), and what stays in
memory is 8 bytes for 512 documents.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
from machine import print_cpu

VOCAB_SIZE = 65_536
_BLOCK_DOCUMENTS = 1 << 20


def make(folder: pathlib.Path, n_documents: int, mean_tokens: int) -> None:
    """Writes a store of random documents of 1 to 2 * mean - 1 tokens, four bytes of text each."""
    from compressed_lm.data import manifest
    from compressed_lm.data.blocks import Block
    from compressed_lm.data.shard_writer import ShardWriter
    from compressed_lm.data.shards import MOST_DOCUMENTS, id_dtype

    rng, entries, left = np.random.default_rng(0), [], n_documents
    folder.mkdir(parents=True, exist_ok=True)
    while left:
        with ShardWriter(folder, len(entries), dtype=id_dtype(VOCAB_SIZE)) as writer:
            while left and writer.n_documents < MOST_DOCUMENTS:
                n = min(left, _BLOCK_DOCUMENTS)
                n_tokens = rng.integers(1, 2 * mean_tokens, n).astype("<u8")
                ids = rng.integers(0, VOCAB_SIZE, int(n_tokens.sum()), np.uint16)
                writer.add(Block(ids, n_tokens, 4 * n_tokens, rng.integers(0, 1 << 32, n, np.uint32)))
                left -= n
            entries.append(writer.commit())
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_tokens", "n_bytes")}
    codec = {"name": "made", "spec": "made", "fingerprint": "0" * 64, "vocab_size": VOCAB_SIZE}
    corpus = {"spec": "made", "split": "train", "fingerprint": "0"}
    job = {"codec": codec, "corpus": corpus, "max_bytes": None, "sharding": {"shard_bytes": 1 << 28}}
    more = {"units": [], "shards": entries, "versions": {}}
    manifest.write(folder, {"format_version": 2, **job, **totals, **more})


def measure(folder: pathlib.Path, seconds: float) -> None:
    """Prints time and memory of a new process that opens and reads a store."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from compressed_lm.data.store import TokenStore
    from compressed_lm.training.data import Batches

    sharding = NamedSharding(jax.make_mesh((1,), ("data",)), PartitionSpec("data"))
    before = _resident()
    started = time.perf_counter()
    store = TokenStore.open(folder)
    opened = time.perf_counter()
    print(f"{store.n_documents:,} documents, {store.n_tokens:,} tokens, {len(store.manifest['shards'])} shards")
    print(f"open: {opened - started:.3f} s, {(_resident() - before) / 1e6:,.1f} MB more memory")
    batches = Batches(store, batch_size=256, seq_len=1024, seed=0, sharding=sharding)
    batches[0]
    print(f"order and first batch of 256 rows: {time.perf_counter() - opened:.3f} s")
    for name, first in (("first pass, with directories", 1), ("then", 1_000_000)):
        started, cpu, n_rows = time.perf_counter(), time.process_time(), 0
        for _ in batches.prefetch(first, first + 10_000):
            n_rows += 256
            if time.perf_counter() - started > seconds:
                break
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        size = n_rows * 1024 * 2 / 1e6
        print(f"{name}: {size / wall:,.1f} MB/s of stored ids, {size / cpu:,.1f} for each second of CPU, ", end="")
        print(f"{(_resident() - before) / 1e6:,.1f} MB more memory than before opening")
    print(f"peak of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.1f} MB")


def _resident() -> int:
    """Returns the resident memory of this process (bytes)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Makes a store and measures it in a new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, default=1e7, help="number of documents (default %(default)g)")
    parser.add_argument("--mean_tokens", type=int, default=8, help="mean tokens of a document (default %(default)s)")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="folder of the store, kept afterwards")
    parser.add_argument("--seconds", type=float, default=20, help="time of each measurement (default %(default)s)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.folder, arguments.seconds)
        return
    print_cpu()
    if not (arguments.folder / "manifest.json").exists():
        make(arguments.folder, int(arguments.documents), arguments.mean_tokens)
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure"], check=True)


if __name__ == "__main__":
    main()
