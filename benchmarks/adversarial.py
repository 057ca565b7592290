"""Slowest inputs of the shipped codecs: speed relative to English for many kinds of adversarial text.

    python benchmarks/adversarial.py [--text FILES...] [--codec NAME...] [--megabytes 4] [--out FILE]

Each kind is one document. Its row has: how many times slower than English a codec encodes and decodes it; how many
times slower English is directly after it, in the same process, than with a newly loaded codec (the text may have
degraded a cache); and its tokens per byte. The last rows are ids that no text encodes to, which are only decoded. Times
are CPU seconds of this process, the best of a few repetitions; loops are compiled before. English is JSON lines
(compressed or not) or plain text; the default is the documentation inside the installed packages.
"""

import argparse
import base64
import json
import pathlib
import random
import string
import sys
import time
import zlib
from collections.abc import Callable

import dictionary as dictionary_benchmark
import numpy as np
from machine import print_cpu

from compressed_lm import codecs

SMALL, CAPITALS = string.ascii_lowercase, string.ascii_uppercase
PRINTABLE = bytes(range(32, 127))
AFTER_BYTES = 4_000_000
"""Bytes of English that are encoded after each kind of text."""

FIXED_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
"""Multipliers of a hash without a key, for which `collisions` are chosen."""


def drawn(alphabet: bytes, n: int, seed: int = 0) -> bytes:
    """Returns letters of an alphabet, uniformly distributed."""
    letters = np.frombuffer(alphabet, np.uint8)
    return letters[np.random.default_rng(seed).integers(0, len(letters), n)].tobytes()


def lines(text: bytes, width: int, end: bytes = b"\n") -> bytes:
    return end.join(text[i : i + width] for i in range(0, len(text), width))


def words(
    n: int, alphabet: str = SMALL, lengths: tuple[int, int] = (5, 5), separator: str = " ", seed: int = 0
) -> bytes:
    """Returns random words."""
    rng = random.Random(seed)
    count = 2 * n // (sum(lengths) + 2 * len(separator)) + 8
    return separator.join("".join(rng.choices(alphabet, k=rng.randint(*lengths))) for _ in range(count)).encode()


def zipf(n: int) -> bytes:
    """Returns words of a vocabulary of 200,000, distributed by Zipf's law."""
    vocabulary = words(200_000 * 9, lengths=(3, 12), seed=1).split()
    ranks = np.random.default_rng(0).zipf(1.2, n // 4)
    return b" ".join([vocabulary[r % len(vocabulary)] for r in ranks.tolist()])


def de_bruijn(letters: bytes, order: int) -> bytes:
    """Returns a de Bruijn cycle of this order: the Lyndon words whose lengths divide it, in order."""
    found, word = bytearray(), [0]
    while word:
        if order % len(word) == 0:
            found += bytes(letters[i] for i in word)
        word = (word * order)[:order]
        while word and word[-1] == len(letters) - 1:
            word.pop()
        if word:
            word[-1] += 1
    return bytes(found)


def collisions(n: int) -> bytes:
    """Returns words of five letters that a multiplicative hash without a key maps to few of 2**17 places."""
    letters = np.arange(26, dtype=np.uint64) + np.uint64(ord("a"))
    low = np.full(1, ord(" "), np.uint64)
    for place in range(1, 6):
        low = (low[:, None] | letters << np.uint64(8 * place)).reshape(-1)
    mixed = (low ^ np.uint64(6)) * FIXED_MULTIPLIERS[0]
    place = (mixed ^ (mixed >> np.uint64(29))) * FIXED_MULTIPLIERS[0] >> np.uint64(47)
    chosen = low[np.argsort(place, kind="stable")[:65_500]]
    return chosen.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :6].tobytes()


def near_misses(codec) -> bytes:
    """Returns the longest strings of a codec, each with a different last byte."""
    if hasattr(codec, "pieces"):
        strings = [s for s in codec.pieces.strings if len(s) > 8 and not set(s) & set(b"ABC")]
        return b"".join([s[:-1] + b"q" for s in strings])
    depth = codec.dictionary.depth
    order = np.argsort(-depth, kind="stable")[:20_000]
    return b"".join([codec.dictionary.entry(i)[:-1] + b"\x01" for i in order.tolist()])


def number_table(n: int) -> bytes:
    values = np.random.default_rng(0).normal(size=n // 9)
    return ",".join([f"{v:.5f}" for v in values]).encode()


def json_lines(n: int) -> bytes:
    rng = random.Random(0)
    row = lambda i: {"id": i, "n": rng.random(), "t": [rng.choice(SMALL) for _ in range(5)], "k": {"a": None}}  # noqa: E731
    return "\n".join(json.dumps(row(i)) for i in range(n // 60)).encode()


def kinds(english: bytes, n: int) -> dict[str, Callable[..., bytes]]:
    """Returns functions that make the texts, by kind; texts shorter than `n` bytes are repeated later."""
    sample = english[: n // 4]
    random_bytes = lambda: drawn(bytes(range(256)), n)  # noqa: E731
    rot13 = bytes.maketrans(
        (SMALL + CAPITALS).encode(), (SMALL[13:] + SMALL[:13] + CAPITALS[13:] + CAPITALS[:13]).encode()
    )
    code = lambda: pathlib.Path(dictionary_benchmark.__file__).read_bytes()  # noqa: E731
    found = {
        "random bytes": random_bytes,
        "zip data": lambda: zlib.compress(english[:n], 9) + random_bytes(),
        "runs of 4 kB of each byte": lambda: b"".join(bytes([i]) * 4096 for i in range(256)),
        "one letter": lambda: b"a" * n,
        "one capital": lambda: b"A" * n,
        "ab": lambda: b"ab" * n,
        "aAaA": lambda: b"aA" * n,
        "random case": lambda: drawn((SMALL + CAPITALS).encode(), n),
        "random case, words": lambda: words(n, SMALL + CAPITALS, (1, 12)),
        "CamelCase": lambda: "".join(w.capitalize() for w in words(n, lengths=(3, 9)).decode().split()).encode(),
        "snake_case": lambda: words(n, lengths=(2, 9), separator="_"),
        "SHOUTING": lambda: sample.upper(),
        "sWAPPED cASE": lambda: sample.swapcase(),
        "ROT13": lambda: sample.translate(rot13),
        "letters and digits": lambda: b"a1" * n,
        "capitals and digits": lambda: b"A1Z9" * n,
        "capitals, one a line": lambda: lines(drawn(b"ACGT", n // 2), 1),
        **{f"DNA, lines of {w}": lambda w=w: lines(drawn(b"ACGT", n), w) for w in (3, 60, 64, 70, 80)},
        "DNA, one line": lambda: drawn(b"ACGT", n),
        "DNA, soft-masked": lambda: lines(drawn(b"ACGTacgt", n), 60),
        "proteins, lines of 60": lambda: lines(drawn(b"ACDEFGHIKLMNPQRSTVWY", n), 60),
        "base64": lambda: base64.encodebytes(random_bytes()),
        "base32": lambda: base64.b32encode(random_bytes()),
        "ascii85": lambda: base64.a85encode(random_bytes()),
        "hex": lambda: random_bytes().hex().encode(),
        "HEX": lambda: random_bytes().hex().upper().encode(),
        "printable ASCII": lambda: drawn(PRINTABLE, n),
        "words of 5 letters": lambda: words(n),
        "collisions of a fixed hash": lambda: collisions(n),
        "words of 30 letters": lambda: words(n, lengths=(30, 30)),
        "words of rare letters": lambda: words(n, "qxzjvkw", (1, 20)),
        "words by Zipf's law": lambda: zipf(n),
        "de Bruijn, a to z": lambda: de_bruijn(SMALL.encode(), 4),
        "de Bruijn, ab": lambda: de_bruijn(b"ab", 18),
        "CJK": lambda: "".join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9FFF, n // 3))).encode(),
        "Cyrillic": lambda: words(n // 2, "абвгдежзийклмнопрстуфхцчшщъыьэюя", (2, 12)),
        "accents": lambda: ("éAàBüC" * n)[: n // 2].encode(),
        "combining marks": lambda: "\u0301\u0302\u0308".encode() * n,
        "emoji, joined": lambda: "👩‍👩‍👧‍👦🏳️‍🌈".encode() * (n // 20),
        "UTF-16": lambda: sample.decode("utf-8", "ignore").encode("utf-16"),
        "UTF-32": lambda: sample.decode("utf-8", "ignore").encode("utf-32"),
        "continuation bytes": lambda: drawn(bytes(range(0x80, 0xC0)), n),
        "a and an invalid byte": lambda: b"a\xff" * n,
        "cut characters": lambda: "日本語".encode()[:-1] * n,
        "control characters and capitals": lambda: b"\x01A\x02b\x03\xc1Z" * n,
        "spaces": lambda: b" " * n,
        "tabs": lambda: b"\t" * n,
        "spaces and line feeds": lambda: drawn(b" \n\t", n),
        "line feeds": lambda: b"\n" * n,
        "CRLF": lambda: b"\r\n" * n,
        "NULs": lambda: bytes(n),
        "digits": lambda: drawn(b"0123456789", n),
        "numbers": lambda: number_table(n),
        "punctuation": lambda: drawn(string.punctuation.encode(), n),
        "apostrophes": lambda: b"'a" * n,
        "letters apart": lambda: lines(drawn(SMALL.encode(), n // 2), 1, b" "),
        "Initials. A. B.": lambda: lines(drawn(CAPITALS.encode(), n // 3), 1, b". "),
        "JSON": lambda: json_lines(n),
        "XML": lambda: b'<row id="17"><Col name="aB">x&amp;y</Col></row>\n' * n,
        "Python": code,
        "minified": lambda: b"".join(code().split()),
        "URLs": lambda: b"\n".join(b"https://a.b/" + w for w in words(n, SMALL + CAPITALS + string.digits).split()),
    }
    return found


def filled(text: bytes, n: int) -> bytes:
    return (text * (n // len(text) + 1))[:n]


def hostile_ids(codec, n: int) -> dict[str, np.ndarray]:
    """Returns ids that no text encodes to: random ids, and random marks and single bytes."""
    rng = np.random.default_rng(0)
    found = {"ids at random": rng.integers(0, codec.vocab_size, n // 4)}
    if hasattr(codec, "pieces"):
        strings = codec.pieces.strings
        marks = [i for i, s in enumerate(strings) if s in (b"A", b"B", b"C", b" ", b"a")]
        found["marks at random"] = rng.choice(marks, n // 4)
        found["single bytes at random"] = rng.choice([i for i, s in enumerate(strings) if len(s) == 1], n // 4)
    return {name: ids.astype(np.int32) for name, ids in found.items()}


def seconds(call: Callable, repetitions: int) -> float:
    """Returns the CPU seconds of a call, the minimum of several."""
    taken = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return max(min(taken), 1e-6)


def measure(name: str, english: bytes, n: int, repetitions: int, only: list[str]) -> list[dict]:
    """Returns the rows of one codec, English first."""
    codec = codecs.load(name)
    usual, after = filled(english, n), filled(english, min(n, AFTER_BYTES))
    for text in (usual, drawn(PRINTABLE, 1000), bytes(1000)):  # compiles
        assert codec.decode(codec.encode(text)) == text
    rows, first = [], None
    texts = kinds(english, n) | {"near misses": lambda: near_misses(codec)}
    for kind, make in {"English": lambda: usual, **texts}.items():
        if only and kind not in ("English", *only):
            continue
        text = filled(make(), n)
        encode = seconds(lambda text=text: codec.encode(text), repetitions)
        other = codec if rows else codecs.load(name)
        then = seconds(lambda other=other: other.encode(after), 1)
        ids = codec.encode(text)
        assert codec.decode(ids) == text, kind
        decode = seconds(lambda ids=ids: codec.decode(ids), repetitions)
        row = {"codec": name, "kind": kind, "encode": n / encode / 1e6, "decode": n / decode / 1e6}
        row |= {"after": len(after) / then / 1e6, "tokens a byte": len(ids) / n}
        rows.append(row)
        first = first or row
        _print(row, first)
    for kind, ids in hostile_ids(codec, n).items():
        if not only:
            text = codec.decode(ids)
            decode = seconds(lambda ids=ids: codec.decode(ids), repetitions)
            # At least the bytes of as many ids of English, so that ids without text do not count as slow.
            size = max(len(text), len(ids) / first["tokens a byte"])
            rows.append({"codec": name, "kind": kind, "decode": size / decode / 1e6})
            _print(rows[-1], first)
    return rows


def _print(row: dict, first: dict) -> None:
    times = [f"{first[c] / row[c]:9.1f}x" if c in row else " " * 10 for c in ("encode", "decode", "after")]
    speeds = [f"{row[c]:8.1f}" if c in row else " " * 8 for c in ("encode", "decode")]
    print(f"{row['codec']:14s} {row['kind']:32s}", *speeds, *times, f"{row.get('tokens a byte', 0):7.3f}", flush=True)


def summary(rows: list[dict]) -> str:
    """Returns a Markdown table of the slowest kinds of each codec."""
    table = [
        "| codec | English MB/s, encode / decode | slowest to encode | | slowest to decode | | English after | |",
        "|---|---:|---|---:|---|---:|---|---:|",
    ]
    for name in dict.fromkeys(row["codec"] for row in rows):
        own = [row for row in rows if row["codec"] == name]
        cells = [f"`{name}`", f"{own[0]['encode']:.0f} / {own[0]['decode']:.0f}"]
        for column in ("encode", "decode", "after"):
            worst = min((row for row in own if column in row), key=lambda row, column=column: row[column])
            cells += [worst["kind"], f"{own[0][column] / worst[column]:.1f}x"]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], help="files of English")
    parser.add_argument("--codec", nargs="+", help="codecs (default: all shipped ones)")
    parser.add_argument("--kind", nargs="+", default=[], help="only these kinds")
    parser.add_argument("--megabytes", type=float, default=4, help="MB of each kind (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="default %(default)s")
    parser.add_argument("--out", type=pathlib.Path, help="file of JSON lines, one per row")
    arguments = parser.parse_args()
    n = int(arguments.megabytes * 1e6)
    english = "\n\n".join(dictionary_benchmark.read_documents(arguments.text, n)).encode()
    print_cpu()
    print(f"{n:,} bytes of each kind; MB/s, then times slower than English\n")
    print(f"{'':47s} {'encode':>8s} {'decode':>8s} {'encode':>10s} {'decode':>10s} {'after':>10s} tokens a byte")
    rows = []
    for name in arguments.codec or codecs.shipped():
        rows += measure(name, english, n, arguments.repetitions, arguments.kind)
    print("\n" + summary(rows))
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
