"""Bytes of text per token by window size, fill and reset of M1 (Lester et al. 2024, tables 2, 9 and 17).

    python experiments/windows.py --m1 DIR --corpus SPEC --max_bytes 1000000 --out experiments/windows

Writes `windows.jsonl` (a row per codec), `windows.md` (tables with the paper's figures) and `windows.png`. Every codec
also decodes its output. A second run measures only the rows that `windows.jsonl` lacks for this M1 and text.
"""

import argparse
import functools
import hashlib
import itertools
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import windows_report

from compressed_lm import codecs
from compressed_lm.codecs.protocol import Codec
from compressed_lm.coding import bits
from compressed_lm.data.job import take_bytes
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.token_analysis.windows import common_length
from compressed_lm.tracking.progress import Job, progress

VOCABULARIES = (256, 4096, 65536)
CODE_VOCABULARY = 256  # tokens are bytes, which divide every window size here
WINDOWS: tuple[dict[str, int | str], ...] = (
    *({"b": b} for b in (16, 24, 32, 64, 128)),
    *({"b": b, "fill": fill} for b in (16, 32) for fill in ("delay", "paper")),
    *({"b": 16, "m1_reset": reset} for reset in ("2", "never")),
    {"b": 16, "fill": "best"},
    {"b": 16, "align": "word"},
    {"b": 16, "fill": "best", "align": "word"},
)
"""Options of `eiw` except v; omitted ones have the default value."""


def examples(documents: Iterator[bytes], size: int) -> list[bytes]:
    """Returns the documents, or for size > 0 parts of `size` bytes of all documents joined by newlines.

    The paper compresses examples of 10,240 bytes, cut from concatenated documents (section 3.3). Every text has an
    overhead at its end, which matters for short texts and most of all for gzip.
    """
    if not size:
        return [document for document in documents if document]
    joined = b"\n".join(documents)
    return [joined[i : i + size] for i in range(0, len(joined), size)]


def digest(texts: Sequence[bytes]) -> str:
    """Returns a hex digest of the texts and their lengths."""
    hashed = hashlib.sha256()
    for text in texts:
        hashed.update(len(text).to_bytes(8, "big") + text)
    return hashed.hexdigest()


def spec_of(family: str, **options: int | str) -> str:
    return codecs.canonical_spec(f"{family}({','.join(f'{k}={v}' for k, v in options.items())})")


def measure_windows(
    m1: codecs.M1, texts: Sequence[bytes], options: dict[str, int | str], job: Job
) -> Iterator[dict[str, object]]:
    """Returns a row per vocabulary for one kind of window, encoded and decoded once.

    Windows are the same for every vocabulary: n windows are ceil(n b / log2(v)) tokens. A window is wrong if it does
    not decode to the text that the encoder put in. That text is the longest common prefix of the decoded window and the
    remaining text: the encoder adds bytes while they fit, so it would have added any further common byte. If M1 is not
    reset at each window, windows cannot be decoded alone and are not compared.
    """
    description = spec_of("eiw", v=CODE_VOCABULARY, **options)
    n_codes = 1 << int(options["b"])
    job.advance(0, codec=description, now="build")
    start = time.perf_counter()
    codec = codecs.create(
        description, m1=m1, progress=lambda n: job.advance(0, now=f"{n:,} of {n_codes:,} windows compiled")
    )
    built = time.perf_counter()
    job.advance(0, now="encode")
    ids = codec.encode_batch(texts)
    encoded = time.perf_counter()
    job.advance(sum(map(len, texts)), now="decode")
    width = int(options["b"]) // 8
    if options.get("m1_reset"):
        decoded, wrong = codec.decode_batch(ids), None
    else:
        decoded, wrong = decode_windows(codec, ids, texts, width)
    seconds = {"build": built - start, "encode": encoded - built, "decode": time.perf_counter() - encoded}
    job.advance(sum(map(len, texts)))
    n_windows = [len(i) // width for i in ids]
    for v in VOCABULARIES:
        field = bits.token_bits(v)
        n_tokens = [-(-n * int(options["b"]) // field) for n in n_windows]
        if codec.options.compiled:  # cheap, and checks that the token count follows from the window count
            other = codecs.create(spec_of("eiw", v=v, **options), m1=m1, dictionary=codec.dictionary)
            assert [len(i) for i in other.encode_batch(texts)] == n_tokens, other.spec
        yield row(
            spec_of("eiw", v=v, **options),
            texts,
            sum(n_tokens),
            decoded,
            seconds,
            n_windows=sum(n_windows),
            wrong_windows=None if wrong is None else wrong / sum(n_windows),
        )


def decode_windows(
    codec: Codec, ids: Sequence[np.ndarray], texts: Sequence[bytes], width: int
) -> tuple[list[bytes], int | None]:
    """Returns the texts decoded from windows of `width` tokens, and the number of wrong windows.

    The number is None if the texts of the windows, cut as in `measure_windows`, do not add up to the whole text.
    """
    windows = [[tuple(window) for window in i.reshape(-1, width).tolist()] for i in ids]
    distinct = sorted(set(itertools.chain.from_iterable(windows)))
    decoded = dict(zip(distinct, codec.decode_batch([np.array(window) for window in distinct]), strict=True))
    wrong: int | None = 0
    for text, its_windows in zip(texts, windows, strict=True):
        place = 0
        for window in its_windows:
            shared = common_length(decoded[window], text[place : place + len(decoded[window])])
            wrong = None if wrong is None else wrong + (shared != len(decoded[window]))
            place += shared
        wrong = wrong if place == len(text) else None
    return [b"".join(decoded[window] for window in its_windows) for its_windows in windows], wrong


def measure_stream(build: Callable[[], Codec], texts: Sequence[bytes], job: Job) -> dict[str, object]:
    """Returns the row of a codec without windows."""
    start = time.perf_counter()
    codec = build()
    job.advance(0, codec=codec.spec, now="encode")
    built = time.perf_counter()
    ids = codec.encode_batch(texts)
    encoded = time.perf_counter()
    job.advance(sum(map(len, texts)), now="decode")
    decoded = codec.decode_batch(ids)
    seconds = {"build": built - start, "encode": encoded - built, "decode": time.perf_counter() - encoded}
    job.advance(sum(map(len, texts)))
    return row(codec.spec, texts, sum(map(len, ids)), decoded, seconds, vocab_size=codec.vocab_size)


def row(
    spec: str,
    texts: Sequence[bytes],
    n_tokens: int,
    decoded: Sequence[bytes],
    seconds: dict[str, float],
    *,
    vocab_size: int | None = None,
    n_windows: int | None = None,
    wrong_windows: float | None = None,
) -> dict[str, object]:
    """Returns the row of one codec.

    `ratio` is input bytes / output bytes at log2(v) bits per token, `lossless` the share of texts that are restored,
    `wrong_windows` the share of windows that are not.
    """
    options = {"b": None, "v": vocab_size, "fill": None, "align": None, "m1_reset": None}
    family, given = codecs.parse_spec(spec)
    if family == "eiw":
        options |= {"fill": "node", "align": "none", "m1_reset": "1"}
    options |= given
    n_bytes = sum(map(len, texts))
    return {
        "spec": spec,
        "family": family,
        **options,
        "bytes_per_token": n_bytes / n_tokens,
        "ratio": n_bytes * 8 / (n_tokens * math.log2(options["v"])),
        "paper": windows_report.paper_bytes_per_token(family, options),
        "n_bytes": n_bytes,
        "n_tokens": n_tokens,
        "n_texts": len(texts),
        "n_windows": n_windows,
        "wrong_windows": wrong_windows,
        "lossless": sum(a == b for a, b in zip(texts, decoded, strict=True)) / len(texts),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def measure_all(arguments, texts: Sequence[bytes], m1: codecs.M1) -> list[dict[str, object]]:
    """Returns the rows of all codecs for these texts and this M1.

    Rows in `windows.jsonl` are reused, and each new row is appended to it. Codecs without M1 take seconds and are
    measured every time.
    """
    table = arguments.out / "windows.jsonl"
    identity = {"m1": m1.hash, "corpus": digest(texts), "corpus_spec": arguments.corpus}
    found = [r for _, r in jsonl.read(table)] if table.exists() else []
    others = [r for r in found if (r["m1"], r["corpus"]) != (identity["m1"], identity["corpus"])]
    rows = {r["spec"]: r for r in found if r not in others}
    for build in streams_without_m1(arguments, texts):
        new = measure_stream(build, texts, Job("", None)) | identity
        rows[new["spec"]] = new
    jsonl.write(table, [*others, *rows.values()])
    jobs = []
    for v in VOCABULARIES:
        if (spec := spec_of("ac", v=v)) not in rows:
            jobs.append(lambda job, s=spec: [measure_stream(lambda: codecs.create(s, m1=m1), texts, job)])
    for options in WINDOWS:
        if any(spec_of("eiw", v=v, **options) not in rows for v in VOCABULARIES):
            jobs.append(lambda job, o=options: measure_windows(m1, texts, o, job))
    with progress("windows", 2 * len(jobs) * sum(map(len, texts)), unit="B") as job:
        for measure in jobs:
            rows |= {r["spec"]: r | identity for r in measure(job)}
            jsonl.write(table, [*others, *rows.values()])
    return list(rows.values())


def streams_without_m1(arguments, texts: Sequence[bytes]) -> Iterator[Callable[[], Codec]]:
    """Yields functions that build `bytes`, `gzip`, `static_ac` and, if one was given, `sentencepiece`."""

    def fit_texts():
        if not arguments.fit_corpus:
            return texts
        return take_bytes(open_corpus(arguments.fit_corpus).documents("train"), arguments.fit_bytes)

    yield codecs.Bytes
    for family in ("static_ac", "gzip"):
        for v in VOCABULARIES:
            yield functools.partial(codecs.create, spec_of(family, v=v), documents=fit_texts)
    if arguments.sentencepiece:
        yield functools.partial(codecs.load, arguments.sentencepiece)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m1", required=True, help="folder with m1.npz, or a .npz file")
    parser.add_argument("--corpus", required=True, metavar="SPEC", help="text to measure on")
    parser.add_argument("--split", help="split of the corpus (default: validation if it exists)")
    parser.add_argument("--max_bytes", type=int, metavar="N", help="approximate bytes of text (default: all)")
    parser.add_argument(
        "--example_bytes",
        type=int,
        default=10_240,
        metavar="N",
        help="cut the concatenated documents into texts of this length, as in the paper; 0: texts are documents "
        "(default %(default)s)",
    )
    parser.add_argument("--fit_corpus", metavar="SPEC", help="text for static_ac (default: the text measured on)")
    parser.add_argument(
        "--fit_bytes", type=int, default=10_000_000, metavar="N", help="bytes of it (default %(default)s)"
    )
    parser.add_argument("--sentencepiece", metavar="DIR", help="trained sentencepiece codec to measure")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for tables and figure")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def run(arguments) -> None:
    file = pathlib.Path(arguments.m1)
    m1 = codecs.M1.from_bytes(file.read_bytes()) if file.is_file() else m1_model.load_m1(arguments.m1)
    corpus = open_corpus(arguments.corpus)
    split = arguments.split or ("validation" if "validation" in corpus.splits else corpus.splits[0])
    texts = examples(take_bytes(corpus.documents(split), arguments.max_bytes), arguments.example_bytes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = measure_all(arguments, texts, m1)
    about = windows_report.About(
        command=shlex.join(["python", *sys.argv]),
        m1_hash=m1.hash,
        m1_parameters=m1.config.n_params,
        m1_context=m1.config.context,
        m1_bits_per_byte=m1_model.exact_bits_per_byte(m1, texts),
        corpus=arguments.corpus,
        fit_corpus=arguments.fit_corpus,
        n_bytes=sum(map(len, texts)),
        n_texts=len(texts),
    )
    (arguments.out / "windows.md").write_text(windows_report.markdown(rows, about), encoding="utf-8")
    windows_report.figure(rows).savefig(arguments.out / "windows.png", dpi=150)
    print(windows_report.markdown(rows, about))


if __name__ == "__main__":
    sys.exit(main())
