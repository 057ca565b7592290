"""Bytes per token of the shipped dictionaries and of SentencePiece, BPE and gzip.

    python benchmarks/bytes_per_token.py --train SPEC [--train_bytes N] --corpus NAME=SPEC --text FILES... [--out DIR]

The peers (SentencePiece unigram with 32,000 pieces, byte-level BPE with 65,536 entries) are trained on every n-th
document of --train. The output of gzip is read as 16-bit tokens. Prints a Markdown table.
"""

import argparse
import pathlib
import zlib
from collections.abc import Iterable

import peers

from compressed_lm import codecs
from compressed_lm.data.sources import open_corpus


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="corpus to train the peers on")
    parser.add_argument("--train_bytes", type=int, default=20_000_000, help="bytes of it (default %(default)s)")
    parser.add_argument("--corpus", action="append", default=[], metavar="NAME=SPEC", help="corpus to tokenise")
    parser.add_argument("--text", nargs="*", default=[], help="files to tokenise: one row per file and one for all")
    parser.add_argument("--out", default="runs/peers", help="folder for the trained peers (default %(default)s)")
    parser.add_argument("--codec", action="append", help="codecs (default: all shipped ones)")
    arguments = parser.parse_args()

    corpus = open_corpus(arguments.train)
    n_bytes = corpus.estimated_bytes("train") or arguments.train_bytes
    every = max(1, round(n_bytes / arguments.train_bytes))
    training = [
        document.decode("utf-8", "replace") for i, document in enumerate(corpus.documents("train")) if i % every == 0
    ]
    columns = {}
    for name in arguments.codec or codecs.shipped():
        codec = codecs.load(name)
        columns[f"`{name}`"] = lambda text, codec=codec: len(codec.encode(text))
    unigram, bpe, _ = peers.load(training, pathlib.Path(arguments.out))
    for peer in (unigram, bpe):
        encode = peer.encoders["one by one"]
        columns[peer.name.replace("tiktoken ", "")] = lambda text, encode=encode: len(
            encode([text.decode("utf-8", "replace")])[0]
        )
    columns["gzip, 16-bit tokens"] = lambda text: -(-len(zlib.compress(text)) // 2)

    print(f"\nPeers trained on {sum(len(t.encode()) for t in training) / 1e6:.1f} MB of {arguments.train}\n")
    print("| bytes per token | bytes | " + " | ".join(columns) + " |")
    print("|---|---:|" + "---:|" * len(columns))
    for item in arguments.corpus:
        name, _, spec = item.partition("=")
        split = open_corpus(spec)
        _row(name, split.documents(split.splits[0]), columns)
    files = {pathlib.Path(path).name: pathlib.Path(path).read_bytes() for path in arguments.text}
    for name, content in files.items():
        _row(name, [content], columns)
    if len(files) > 1:
        _row("all files", files.values(), columns)


def _row(name: str, texts: Iterable[bytes], columns: dict):
    texts = list(texts)
    n_bytes = sum(map(len, texts))
    cells = [f"{n_bytes / sum(map(count, texts)):.2f}" for count in columns.values()]
    print(f"| {name} | {n_bytes:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
