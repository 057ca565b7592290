"""Round trip of all codecs of a folder on hostile and real bytes.

    python benchmarks/lossless.py runs/demo/codecs --data "$COMPRESSED_LM_DATA" --random 10000

Prints per codec and group: documents, bytes, bytes per token, seconds to encode and decode, and "lossless" or the first
document that changed.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import sys
import time

import numpy as np
from machine import print_cpu

from compressed_lm import codecs

GERMAN = "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch; die Vögelein schweigen im Walde. "
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
)


def documents(data: pathlib.Path | None, n_random: int, longest: int) -> dict[str, list[bytes]]:
    """Returns groups of documents by name."""
    rng = np.random.default_rng(0)
    groups = {
        "empty and single bytes": [b"", *(bytes([b]) for b in range(256))],
        "random": [rng.integers(0, 256, n).astype(np.uint8).tobytes() for n in rng.integers(0, longest + 1, n_random)],
        "German, Japanese": [GERMAN.encode() * 20, JAPANESE.encode() * 20, JAPANESE.encode("shift_jis") * 20],
    }
    if data:
        corpus = data / "benchmarks" / "canterbury-corpus"
        files = [
            p for name in ("canterbury", "calgary", "artificial", "misc") for p in sorted((corpus / name).iterdir())
        ]
        groups["Canterbury and Calgary files"] = [p.read_bytes() for p in files if p.name != "SHA1SUM"]
        lines = gzip.open(data / "corpora" / "c4_en" / "c4-validation.00000-of-00001.json.gz")
        groups["C4"] = [json.loads(line)["text"].encode() for line in itertools.islice(lines, 200)]
    return groups


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", type=pathlib.Path, help="folder of codec directories")
    parser.add_argument("--data", type=pathlib.Path, help="folder of real corpora")
    parser.add_argument("--random", type=int, default=1000, help="number of random byte strings (default %(default)s)")
    parser.add_argument("--longest", type=int, default=2000, help="largest length of these (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    groups = documents(arguments.data, arguments.random, arguments.longest)
    broken = 0
    for directory in sorted(arguments.codecs.iterdir()):
        codec = codecs.load(directory)
        for name, group in groups.items():
            start = time.perf_counter()
            ids = codec.encode_batch(group)
            middle = time.perf_counter()
            restored = codec.decode_batch(ids)
            end = time.perf_counter()
            changed = [i for i, (a, b) in enumerate(zip(group, restored, strict=True)) if a != b]
            broken += bool(changed)
            n_bytes, n_tokens = sum(map(len, group)), sum(map(len, ids))
            print(
                f"{codec.spec:30s} {name:28s} {len(group):6,} documents {n_bytes:11,} bytes "
                f"{n_bytes / n_tokens:6.3f} bytes per token, "
                f"encode {middle - start:6.1f} s, decode {end - middle:6.1f} s: "
                + (f"CHANGED document {changed[0]}" if changed else "lossless"),
                flush=True,
            )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
