"""Gain of each rule of `pieces` and of rejected rules: a model for each, at one vocabulary size.

    python experiments/beat_subword/levers.py --data $COMPRESSED_LM_DATA --out experiments/recorded/beat_subword \\
      --work runs/levers

One seed, one learning rate, 1 MB of text, models of equal FLOPs per byte, measured on held-out training text: enough to
see differences of 0.01 bits per byte. Validation documents are not used. Appends to OUT/levers.jsonl; rows in the file
are not trained again.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

import jax
import matplotlib.pyplot as plt
import numpy as np
import protocol
import report

from compressed_lm import codecs, evaluation, models, scaling
from compressed_lm.coding import folding, parsing, pieces, unigram
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.coding.segments import MAX_BYTES
from compressed_lm.io import jsonl
from compressed_lm.training import train

V, LEARNING_RATE = 4096, 1e-2

# Expressions for segments of text. Bytes above 127 count as letters.
WORDS = rb"[ \t\n\r\v\f]*[^ \t\n\r\v\f]+|[ \t\n\r\v\f]+"
CLASSES = (
    rb" ?[A-Za-z\x80-\xff]+|'[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^A-Za-z0-9\x80-\xff \t\n\r\v\f]+| +(?= )| +|[\t\n\r\v\f]+"
)
DIGITS = CLASSES.replace(rb"[0-9]+", rb"[0-9]")
SPACE_AFTER = rb"'?[A-Za-z\x80-\xff]+ ?|[0-9] ?|[^A-Za-z0-9\x80-\xff \t\n\r\v\f]+ ?| +|[\t\n\r\v\f]+"
MARKED = DIGITS.replace(rb"[^", rb"[^\x01\x02") + rb"|[\x01\x02]"
PHRASES = rb"(?: ?[A-Za-z\x80-\xff]+,?){1,3}|" + DIGITS

_CAPITALS = re.compile(rb"( ?)([A-Z]{2,})(?![a-z])")
_CAPITAL = re.compile(rb"( ?)([A-Z])")


def mark_capitals(text: bytes) -> bytes:
    """Returns the text in lower case, with byte 1 before a capitalised word and byte 2 before one in capitals."""
    text = _CAPITALS.sub(lambda m: b"\x02" + m[1] + m[2].lower(), text.replace(b"\x01", b"").replace(b"\x02", b""))
    return _CAPITAL.sub(lambda m: b"\x01" + m[1] + m[2].lower(), text)


@dataclasses.dataclass
class Variant:
    """Vocabulary with custom rules, only for measurements: it is not lossless for every text.

    Attributes:
        cut: expression whose matches are the segments.
        prepare: function applied to each text first.
        parse: "cheapest" or "longest".
        prefixes: all prefixes of an entry are entries, grown by use, and text is parsed by longest match.
    """

    cut: bytes
    prepare: Callable[[bytes], bytes] = bytes
    parse: str = "cheapest"
    prefixes: bool = False

    name = "variant"
    flops_per_byte = m1_flops_per_byte = 0.0
    vocab_size = V

    def learn(self, documents: Iterable[bytes]) -> "Variant":
        """Fits the vocabulary."""
        self._pattern, self._memo = re.compile(self.cut, re.DOTALL), {}
        counts = collections.Counter()
        for document in documents:
            counts.update(self._segments(document))
        if self.prefixes:
            self._entries = grow(counts, V)
            return self
        found = unigram.learn(unigram.Counts(counts, folding.SPACED), V)
        self._strings = found.strings
        cells, number = pieces.trie(found.strings)
        self._tables = parsing.steps(cells, number, found.costs), number
        self._number = {s: i for i, s in enumerate(found.strings)}
        return self

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the ids of each document."""
        parse = self._entries.encode if self.prefixes else self._longest if self.parse == "longest" else self._cheapest
        found = []
        for document in documents:
            parts = [np.zeros(0, np.int32)]
            for segment in self._segments(document):
                if segment not in self._memo:
                    self._memo[segment] = parse(segment)
                parts.append(self._memo[segment])
            found.append(np.concatenate(parts))
        return found

    def _segments(self, document: bytes) -> list[bytes]:
        matches = self._pattern.findall(self.prepare(document))
        return [m[i : i + MAX_BYTES] for m in matches for i in range(0, len(m), MAX_BYTES)]

    def _cheapest(self, segment: bytes) -> np.ndarray:
        numbers = np.empty(len(segment), np.int32)
        best, back = np.empty(MAX_BYTES + 2, np.int64), np.empty((MAX_BYTES + 2, 2), np.int32)
        n = parsing.least_cost(np.frombuffer(segment, np.uint8), 0, len(segment), *self._tables, best, back, numbers, 0)
        return numbers[:n]

    def _longest(self, segment: bytes) -> np.ndarray:
        numbers, i = [], 0
        while i < len(segment):
            n = next(n for n in range(min(16, len(segment) - i), 0, -1) if segment[i : i + n] in self._number)
            numbers.append(self._number[segment[i : i + n]])
            i += n
        return np.array(numbers, np.int32)


def grow(counts: collections.Counter, v: int, rounds: int = 30) -> Dictionary:
    """Returns a prefix-closed dictionary grown by use.

    Text is parsed by longest match; the most frequent extensions are added and the least used entries are dropped until
    nothing changes. Statistics are those of window starts.
    """
    kept = [s for s, n in counts.items() if n > 1]
    bounds = np.concatenate([[0], np.cumsum([len(s) for s in kept])])
    text, weight = np.frombuffer(b"".join(kept), np.uint8), np.array([counts[s] for s in kept])
    entries = [bytes([b]) for b in range(256)]
    for round_ in range(rounds):
        node = {entry: i for i, entry in enumerate(entries)}
        children = np.full((len(entries), 256), -1, np.int32)
        for entry, i in node.items():
            if len(entry) > 1:
                children[node[entry[:-1]], entry[-1]] = i
        reached, next_ = np.zeros(len(entries), np.int64), np.zeros((len(entries), 256), np.int64)
        _follow(text, bounds, weight, children, reached, next_)
        n_new = max(v - len(entries), int(v * max(0.02, 0.15 * (1 - round_ / rounds))))
        best = np.argsort(-next_, axis=None)[:n_new]
        use = dict(zip(entries, reached.tolist(), strict=True))
        use |= {entries[i // 256] + bytes([i % 256]): next_.flat[i] for i in best if next_.flat[i]}
        children_left = collections.Counter(entry[:-1] for entry in use)
        for entry in sorted(use, key=lambda e: (use[e], -len(e))):
            if len(use) <= v:
                break
            if len(entry) > 1 and not children_left[entry]:
                del use[entry]
                children_left[entry[:-1]] -= 1
        entries = list(use)
    entries.sort()
    node = {entry: i for i, entry in enumerate(entries)}
    return Dictionary([node[e[:-1]] if len(e) > 1 else -1 for e in entries], [e[-1] for e in entries])


@njit
def _follow(text, bounds, weight, children, reached, next_):
    """Counts how often a longest match reaches each entry, and which byte follows its end."""
    for s in range(len(weight)):
        i = bounds[s]
        while i < bounds[s + 1]:
            node = np.int64(text[i])
            reached[node] += weight[s]
            i += 1
            while i < bounds[s + 1] and children[node, text[i]] >= 0:
                node = children[node, text[i]]
                reached[node] += weight[s]
                i += 1
            if i < bounds[s + 1]:
                next_[node, text[i]] += weight[s]


LEVERS = {
    "sentencepiece": f"sentencepiece(v={V})",
    "prefix-closed, by use, word-aligned": Variant(WORDS, prefixes=True),
    "prefix-closed, by use, classes": Variant(DIGITS, prefixes=True),
    "unigram, word-aligned": Variant(WORDS),
    "unigram, classes": Variant(CLASSES),
    "unigram, classes, digits singly": Variant(DIGITS),
    "+ longest match": Variant(DIGITS, parse="longest"),
    "+ pairs and triples of words": Variant(PHRASES),
    "+ marks for capitals": Variant(MARKED, mark_capitals),
    "+ marks for capitals, within pieces": Variant(MARKED.replace(rb" ?[A-Za", rb"[\x01\x02]? ?[A-Za"), mark_capitals),
    "+ marks for capitals, space after": Variant(
        SPACE_AFTER.replace(rb"[^", rb"[^\x01\x02") + rb"|[\x01\x02]", mark_capitals
    ),
    "pieces: + marks for spaces": f"pieces(v={V})",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of levers.jsonl")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for texts, codecs and runs")
    parser.add_argument(
        "--train_bytes", type=int, default=1_000_000, help="bytes of text to train on (default %(default)s)"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    texts = protocol.Texts(arguments.data, arguments.work / "texts", arguments.train_bytes)
    table = arguments.out / "levers.jsonl"
    done = {row["lever"] for _, row in jsonl.read(table)} if table.exists() else set()
    flops = flops_per_byte(texts, arguments.work)
    for lever, codec in LEVERS.items():
        if lever in done:
            continue
        if isinstance(codec, str):
            codec = protocol.encoded(codec, texts, arguments.work).codec
        else:
            codec.learn(texts.documents("learn"))
        row = {"lever": lever} | measure(codec, texts, arguments.work, flops)
        with table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{lever}: {row['dev_bits_per_byte']:.4f}", flush=True)
    print(shown(table))
    figure(table, arguments.out / "levers.png")
    return 0


def flops_per_byte(texts: protocol.Texts, work: pathlib.Path) -> float:
    """Returns the FLOPs per byte of the model over SentencePiece, to which all others are adapted."""
    reference = protocol.encoded(f"sentencepiece(v={V})", texts, work)
    shape = models.TransformerConfig(models.model_vocab_size(V), d_ff=protocol.REFERENCE_D_FF, **protocol.MODEL)
    return protocol.flops_per_byte(shape, reference.bytes_per_token)


def measure(codec: codecs.Codec | Variant, texts: protocol.Texts, work: pathlib.Path, flops: float) -> dict:
    """Trains a model over a codec and returns its bits per byte of held-out training text."""
    train_text, dev = (protocol.Tokens(codec, texts.documents(name)) for name in ("train", "dev"))
    shape = protocol.model_at(flops, V, train_text.bytes_per_token)
    config = dataclasses.replace(protocol.TRAIN, learning_rate=LEARNING_RATE, steps="1 epochs", checkpoint_every="100%")
    result = train(
        config, shape, train_text, out=work / "run", mesh_shape=(1, 1, 1), compilation_cache=work / "compiled"
    )
    shutil.rmtree(work / "run")
    bits, n_bytes = evaluation.document_bits(result.params, shape, dev, seq_len=config.seq_len)
    return {
        "bytes_per_token": round(train_text.bytes_per_token, 4),
        "d_ff": shape.d_ff,
        "flops_per_byte_softmax": round(protocol.flops_per_byte(shape, train_text.bytes_per_token)),
        "dev_bits_per_byte": round(float(bits.sum() / n_bytes.sum()), 5),
    }


def shown(table: pathlib.Path) -> str:
    """Returns the table of all levers."""
    rows = scaling.read_table(table)
    rows["beside sentencepiece"] = (rows["dev_bits_per_byte"] - rows["dev_bits_per_byte"].iloc[0]).map("{:+.3f}".format)
    rows["dev_bits_per_byte"] = rows["dev_bits_per_byte"].map("{:.3f}".format)
    rows["bytes_per_token"] = rows["bytes_per_token"].map("{:.2f}".format)
    return report.markdown(rows[["lever", "bytes_per_token", "dev_bits_per_byte", "beside sentencepiece"]])


def figure(table: pathlib.Path, path: pathlib.Path) -> None:
    """Plots a bar per lever: bits per byte of held-out training text relative to SentencePiece."""
    rows = scaling.read_table(table).iloc[::-1]
    gains = rows["dev_bits_per_byte"] - rows["dev_bits_per_byte"].iloc[-1]
    fig, ax = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
    bars = ax.barh(rows["lever"], gains, color=np.where(gains > 0, "#D55E00", "#009E73"))
    ax.bar_label(bars, [f"{gain:+.3f}" for gain in gains], padding=3, fontsize=8)
    ax.axvline(0, color="black", lw=0.8)
    ax.margins(x=0.12)
    ax.set_xlabel("bits per byte beside SentencePiece (to the left is better)")
    ax.spines[["top", "right", "left"]].set_visible(False)
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
