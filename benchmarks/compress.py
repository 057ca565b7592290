"""The compression job beside the codec alone: speed by workers and engines, and memory.

    python benchmarks/compress.py --json corpora/*/*train*.gz --bytes 2e9 --workers 1 2 [--ray]

repeats the documents of JSON-lines files, with a counter before each text, in one plain file of JSON lines. It measures
the codec alone (batches of 1 MB in memory, one core), then `compress` with each number of workers, and with Ray, in new
processes, in turns. The speed of the job is in bytes of text for each second of the whole job: start of the workers,
reading, encoding, decoding and comparing every document, writing, checksums and the joining of shards.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from machine import print_cpu


def make(paths: list[pathlib.Path], path: pathlib.Path, n_bytes: float) -> None:
    """Writes a file of JSON lines."""
    size = 0
    lines = (line for name in itertools.cycle(paths) for line in gzip.open(name))
    with open(path, "w", encoding="utf-8") as file:
        for number, line in enumerate(lines):
            size += file.write(json.dumps({"text": f"{number} {json.loads(line)['text']}"}, ensure_ascii=False) + "\n")
            if size >= n_bytes:
                return


def alone(spec: str, name: str, n_bytes: float = 2.5e8) -> float:
    """Returns the speed of the codec's `encode_batch` (bytes per second)."""
    from compressed_lm import codecs
    from compressed_lm.data.job import take_bytes
    from compressed_lm.data.sources import open_corpus

    codec, batches, size = codecs.load(name), [[]], 0
    for text in take_bytes(open_corpus(spec).documents(), int(n_bytes)):
        batches[-1].append(text)
        size += len(text)
        if sum(map(len, batches[-1])) >= 1 << 20:
            batches.append([])
    codec.encode_batch(batches[0])
    started = time.perf_counter()
    for batch in batches:
        codec.encode_batch(batch)
    return size / (time.perf_counter() - started)


def job(spec: str, name: str, way: str) -> None:
    """Compresses a corpus and prints bytes per second and peak memory of this process (MB)."""
    from compressed_lm import codecs
    from compressed_lm.data.engines.local import Local
    from compressed_lm.data.job import compress
    from compressed_lm.data.sources import open_corpus

    engine = Local(int(way)) if way.isdigit() else None
    if engine is None:
        import ray

        from compressed_lm.data.engines.ray import Ray

        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        engine = Ray()
        time.sleep(5)  # the cluster is there before the job
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        started = time.perf_counter()
        store = compress(open_corpus(spec), "train", codecs.load(name), folder / "store", engine=engine)
        speed = store.n_bytes / (time.perf_counter() - started)
    finally:
        shutil.rmtree(folder)
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps([speed, int(peak.split()[1]) / 1e3]))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, nargs="+", help="gzip files of JSON lines")
    parser.add_argument("--bytes", type=float, default=5e8, help="size of the made file (default %(default)g)")
    parser.add_argument("--codec", default="pieces16-en", help="codec (default %(default)s)")
    parser.add_argument("--workers", nargs="+", default=["1", "2"], help="numbers of workers (default 1 2)")
    parser.add_argument("--ray", action="store_true", help="also measure a Ray cluster on this machine")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default %(default)s)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        job(arguments.measure[0], arguments.codec, arguments.measure[1])
        return
    print_cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "made.jsonl"
        make(arguments.json, path, arguments.bytes)
        ways = [*arguments.workers, *(["ray"] if arguments.ray else [])]
        found: dict[str, list] = {way: [] for way in ["alone", *ways]}
        for _ in range(arguments.rounds):
            found["alone"].append([alone(f"json:{path}", arguments.codec), 0])
            for way in ways:
                command = [sys.executable, __file__, "--codec", arguments.codec, "--measure", f"json:{path}", way]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
                found[way].append(json.loads(out.splitlines()[-1]))
        size = path.stat().st_size
    median = {way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in found.items()}
    codec, one = median["alone"][0], median.get("1", median[ways[0]])[0]
    print(f"{arguments.codec}, {size / 1e9:.2f} GB of JSON lines, medians of {arguments.rounds}")
    print(f"codec alone, one core: {codec / 1e6:.1f} MB/s")
    for way in ways:
        speed, peak = median[way]
        n = int(way) if way.isdigit() else max(map(int, arguments.workers))
        name = f"{way} workers" if way.isdigit() else f"Ray, {n} CPUs"
        print(
            f"{name}: {speed / 1e6:.1f} MB/s, {speed / one:.2f}x one worker, {speed / n / codec:.0%} of the codec for "
            f"each core; peak memory of the first process {peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
