"""Speed of the dictionary engine and of the shipped `pieces`, compared with other tokenizers.

    python benchmarks/dictionary.py --text corpus.json.gz --dictionary eiw.dict --out runs/benchmarks

Prints MB/s of text for encoding and decoding: medians of repetitions in which all run in turns, so that other load on
the machine slows all of them. Compare the ratios. Everything runs on one thread unless its row states otherwise. Of the
two ways of a peer to encode, one by one and in a batch, the faster counts. Text is JSON lines with a field "text"
(compressed or not) or plain text; the default is the documentation inside the installed packages. The default
dictionary has the most frequent n-grams of the text.

`--parts` prints the time of the stages of our encoders instead. `--encode NAME --times N` only encodes the text N + 1
times, to count instructions: the difference of two N under `valgrind --tool=cachegrind`.
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numba
import numpy as np
from machine import print_cpu

from compressed_lm import codecs
from compressed_lm.codecs import device_dictionary
from compressed_lm.coding import batches, boundaries, dictionary_file, greedy, parsing
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.coding.pieces import Pieces

N_ENTRIES = 65_536
COUNTED_BYTES = 4_000_000
LONGEST_NGRAM = 16
LEAST_SECONDS = 0.05
"""Shortest measurement (seconds): a call is repeated until it takes this long."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def read_documents(paths: Sequence[pathlib.Path], limit: int) -> list[str]:
    """Returns about `limit` bytes of documents from the beginning of the files, an equal share from each."""
    if not paths:
        from compressed_lm.data.sources import installed_docs

        return _head((document.decode() for document in installed_docs.documents()["train"]), limit)
    return [text for path in paths for text in _head(_file_texts(path), limit // len(paths))]


def _file_texts(path: pathlib.Path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        if ".json" in path.name:
            yield from (json.loads(line)["text"] for line in lines)
        else:
            yield lines.read()


def _head(texts, limit: int) -> list[str]:
    chosen, size = [], 0
    for text in texts:
        if size >= limit:
            break
        chosen.append(text)
        size += len(text.encode())
    return chosen


def ngram_dictionary(text: bytes) -> Dictionary:
    """Returns the most frequent n-grams, best first; prefixes are at least as frequent, so they are included."""
    data = np.frombuffer(text[:COUNTED_BYTES], np.uint8).astype(np.int64)
    parent, last = [np.full(256, -1)], [np.arange(256)]
    counts, base = [np.bincount(data, minlength=256) + len(data)], 0  # single bytes first
    places, group = np.arange(len(data)), data
    for n in range(1, LONGEST_NGRAM):
        keep = places + n < len(data)
        places, group = places[keep], group[keep]
        keys, group, count = np.unique(group * 256 + data[places + n], return_inverse=True, return_counts=True)
        parent.append(base + keys // 256)
        last.append(keys % 256)
        counts.append(count)
        base += len(counts[-2])
        frequent = count[group] > 1
        places, group = places[frequent], group[frequent]
    parent, last, counts = (np.concatenate(a) for a in (parent, last, counts))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:N_ENTRIES])
    number = np.full(len(parent) + 1, -1)
    number[chosen] = np.arange(len(chosen))
    return _alphabetical(Dictionary(number[parent[chosen]], last[chosen]))


def _alphabetical(dictionary: Dictionary) -> Dictionary:
    """Returns the same entries, numbered as in a codec."""
    order = np.array(sorted(range(len(dictionary)), key=dictionary.entry))
    number = np.full(len(order) + 1, -1)
    number[order] = np.arange(len(order))
    return Dictionary(number[dictionary.parent[order]], dictionary.last[order])


def our_rows(dictionary: Dictionary, data: list[bytes], *, device: bool) -> dict[str, tuple[Callable, Callable]]:
    """Returns our ways to time: name, encode, decode."""
    ids = dictionary.encode_batch(data)
    assert dictionary.decode_batch(ids) == data
    rows = {
        "batch": (lambda: dictionary.encode_batch(data), lambda: dictionary.decode_batch(ids)),
        "one by one": (lambda: [dictionary.encode(d) for d in data], lambda: [dictionary.decode(i) for i in ids]),
        "2 threads": (
            lambda: dictionary.encode_batch(data, threads=2),
            lambda: dictionary.decode_batch(ids, threads=2),
        ),
    }
    if device:
        found = device_dictionary.encode(dictionary, data)
        assert all(np.array_equal(a, b) for a, b in zip(found, ids, strict=True))
        assert device_dictionary.decode(dictionary, found) == data
        rows["device"] = (
            lambda: device_dictionary.encode(dictionary, data),
            lambda: device_dictionary.decode(dictionary, ids),
        )
    return {f"ours, {name}": row for name, row in rows.items()}


def pieces_rows(data: list[bytes]) -> dict[str, tuple[Callable, Callable]]:
    """Returns the ways to time of the codec `pieces16-en`."""
    pieces = codecs.load("pieces16-en").pieces
    ids = pieces.encode_batch(data)
    assert pieces.decode_batch(ids) == data
    return {
        "pieces, batch": (lambda: pieces.encode_batch(data), lambda: pieces.decode_batch(ids)),
        "pieces, one by one": (lambda: [pieces.encode(d) for d in data], lambda: [pieces.decode(i) for i in ids]),
    }


@numba.njit
def _all_boundaries(data, bounds, begins):
    for d in range(len(bounds) - 1):
        i, stop = bounds[d], bounds[d + 1]
        while i < stop:
            i = begins[boundaries.find(data, i, stop, stop, 128, begins)]


@numba.njit
def _all_keys(data, bounds, spaced, slots, key, begins, keys):
    for d in range(len(bounds) - 1):
        i, stop = bounds[d], bounds[d + 1]
        while i < stop:
            i = begins[parsing._cut(data, bounds[d], i, stop, stop, spaced, slots, key, begins, keys)]


@numba.njit
def _all_steps(data, n, table, states):
    tile = greedy.STREAMS * greedy.FAR
    for begin in range(0, n - tile + 1, tile):
        text, table_at = np.uint64(data.ctypes.data + begin), np.uint64(table.ctypes.data)
        greedy._advance_far(text, table_at, np.uint64(states.ctypes.data), greedy.FAR)


def part_rows(dictionary: Dictionary, pieces: Pieces, data: list[bytes]) -> dict[str, Callable]:
    """Returns the stages of our encoders to time, each with all stages before it."""
    after = bytes(greedy.PADDING)
    runs = [
        (batches.read_only(b"".join([*run, after])), bounds) for run, bounds in batches.runs_of(data, batches.BLOCK)
    ]
    states, memory = np.empty(greedy.STATES, np.uint32), (pieces._memo.slots, pieces._memo.key, pieces._memo.parsed)
    numbers, places = np.empty(4 * max(len(text) for text, _ in runs), np.int32), np.empty(len(data) + 1, np.int64)
    space, spaced = pieces._space.arrays, pieces.spaced

    def parse_entries():
        for text, bounds in runs:
            greedy.parse(text, bounds, dictionary._table, dictionary.ids, np.uint32(0), False, states, numbers, places)

    def parse_pieces():
        for text, bounds in runs:
            parsing.parse(text, bounds, pieces._tables, memory, pieces.rules, space, numbers, places)

    return {
        "dictionary: steps of ten places": lambda: [
            _all_steps(text, bounds[-1], dictionary._table, states) for text, bounds in runs
        ],
        "dictionary: and reading the tokens": parse_entries,
        "dictionary: and joining, copying texts": lambda: dictionary.encode_batch(data),
        "pieces: boundaries of segments": lambda: [_all_boundaries(text, bounds, space[0]) for text, bounds in runs],
        "pieces: and keys": lambda: [
            _all_keys(text, bounds, spaced, *memory[:2], space[0], space[1]) for text, bounds in runs
        ],
        "pieces: and looking them up": parse_pieces,
        "pieces: and joining, copying texts": lambda: pieces.encode_batch(data),
    }


def print_parts(rows: dict[str, Callable], n_bytes: int, repetitions: int, clock: Callable) -> None:
    """Prints the median time of each stage and those before it; each repetition runs all in turn."""
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for call in rows.values():
        call()
    for _ in range(repetitions):
        for name, call in rows.items():
            taken[name].append(seconds(call, clock))
    print(f"\n{'':46s} {'ns per byte':>12s} {'MB/s':>8s}")
    for name, times in taken.items():
        each = statistics.median(times) / n_bytes
        print(f"{name:46s} {each * 1e9:12.3f} {1e-6 / each:8.0f}")


def peer_rows(peers: Sequence, texts: list[str]) -> dict[str, tuple[Callable, Callable]]:
    rows = {}
    for peer in peers:
        for way, encode in peer.encoders.items():
            ids = encode(texts)
            decode = peer.decoders[way]
            rows[f"{peer.name}, {way}"] = (lambda e=encode: e(texts), lambda d=decode, i=ids: d(i))
    return rows


def seconds(call: Callable, clock: Callable[[], float]) -> float:
    """Returns the seconds of one call."""
    n, start = 0, clock()
    while True:
        call()
        n, taken = n + 1, clock() - start
        if taken >= LEAST_SECONDS:
            return taken / n


def speeds(rows: dict[str, tuple], n_bytes: int, repetitions: int, clock: Callable) -> dict[str, tuple[float, float]]:
    """Returns the median MB/s of encoding and decoding by row; each repetition runs all rows in turn."""
    taken = {name: ([], []) for name in rows}
    for repetition in range(repetitions):
        for name, calls in rows.items():
            for call, times in zip(calls, taken[name], strict=True):
                times.append(seconds(call, clock))
        print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
    return {name: tuple(n_bytes / 1e6 / statistics.median(t) for t in times) for name, times in taken.items()}


def print_table(found: dict[str, tuple[float, float]], peers: Sequence) -> dict[str, float]:
    """Prints all rows, then the ratios; returns the ratios."""
    print(f"\n{'':46s} {'encode MB/s':>12s} {'decode MB/s':>12s}")
    for name, (encode, decode) in found.items():
        print(f"{name:46s} {encode:12.1f} {decode:12.1f}")
    ratios = {}
    for ours in ("ours", "pieces"):
        encode, decode = found[f"{ours}, batch"]
        for peer in peers:
            ways = [found[f"{peer.name}, {way}"] for way in peer.encoders]
            ratios[f"encode, {ours} / {peer.name}"] = encode / max(e for e, _ in ways)
            ratios[f"decode, {ours} / {peer.name}"] = decode / max(d for _, d in ways)
        ratios[f"decode / encode, {ours}"] = decode / encode
    print()
    for name, ratio in ratios.items():
        print(f"{name:60s} {ratio:8.1f}")
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], help="text files")
    parser.add_argument("--dictionary", type=pathlib.Path, help="dictionary file (default: made from the text)")
    parser.add_argument("--out", type=pathlib.Path, help="folder for trained peers and for dictionary.json")
    parser.add_argument("--megabytes", type=float, default=8, help="MB of text to use (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="default %(default)s")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: if other jobs share the core")
    parser.add_argument("--no-device", action="store_true", help="leave the device path out")
    parser.add_argument("--parts", action="store_true", help="time the stages of our encoders instead")
    parser.add_argument("--encode", choices=("dictionary", "pieces"), help="only encode the text")
    parser.add_argument("--times", type=int, default=1, help="with --encode (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    texts = read_documents(arguments.text, int(arguments.megabytes * 1e6))
    data = [text.encode() for text in texts]
    n_bytes = sum(map(len, data))
    dictionary = (
        dictionary_file.from_bytes(arguments.dictionary.read_bytes(), str(arguments.dictionary))[0]
        if arguments.dictionary
        else ngram_dictionary(b"".join(data))
    )
    if arguments.parts or arguments.encode:
        pieces = codecs.load("pieces16-en").pieces
        print(f"{len(texts):,} documents, {n_bytes:,} bytes")
        for _ in range(arguments.times + 1 if arguments.encode else 0):
            (dictionary if arguments.encode == "dictionary" else pieces).encode_batch(data)
        if arguments.parts:
            clock = CLOCKS[arguments.clock]
            print_parts(part_rows(dictionary, pieces, data), n_bytes, arguments.repetitions, clock)
        return 0
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # read at first use
    import peers as peer_module

    with tempfile.TemporaryDirectory() as scratch:
        peers = peer_module.load(texts, (arguments.out or pathlib.Path(scratch)) / "peers")
    n_tokens = sum(map(len, dictionary.encode_batch(data)))
    print(
        f"{len(texts):,} documents, {n_bytes:,} bytes; {len(dictionary):,} entries of at most {dictionary.depth.max()} "
        f"bytes; {n_bytes / n_tokens:.2f} bytes per token; {arguments.clock} time",
        flush=True,
    )
    rows = our_rows(dictionary, data, device=not arguments.no_device) | pieces_rows(data) | peer_rows(peers, texts)
    found = speeds(rows, n_bytes, arguments.repetitions, CLOCKS[arguments.clock])
    ratios = print_table(found, peers)
    if arguments.out:
        results = {"MB/s": found, "ratios": ratios, "bytes": n_bytes, "documents": len(texts), "tokens": n_tokens}
        (arguments.out / "dictionary.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
