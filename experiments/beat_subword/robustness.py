"""Bits per byte of text that differs from the training text.

    python experiments/beat_subword/robustness.py --data $COMPRESSED_LM_DATA --out experiments/recorded/beat_subword \\
      --work runs/beat_subword

A model of each method (seed 0, the best learning rate in results.jsonl) is trained again and measured on C4 validation
unchanged, with typing errors and in capitals, and on Python, German and Japanese: the standard library of Python and
the translations of GNU coreutils in Linux distributions (/usr/share/locale; languages that are not installed are left
out). Appends to OUT/robustness.jsonl; rows in the file are not trained again.
"""

import argparse
import dataclasses
import gettext
import json
import pathlib
import random
import shutil
import string
import sys

import protocol
import report

from compressed_lm import evaluation, models, scaling
from compressed_lm.io import jsonl
from compressed_lm.training import train

V = 4096
METHODS = ("sentencepiece", "byte-level BPE", "eiw", "pieces")
BYTES = 100_000  # bytes of each text


def with_typing_errors(document: bytes, drawn: random.Random, share: float = 0.03) -> bytes:
    """Returns a document in which letters are doubled, left out, replaced or swapped with the next."""
    letters = list(document.decode("utf-8", "ignore"))
    for i in range(len(letters) - 1):
        if letters[i].isalpha() and drawn.random() < share:
            kind = drawn.randrange(4)
            if kind == 0:
                letters[i] *= 2
            elif kind == 1:
                letters[i] = ""
            elif kind == 2:
                letters[i] = drawn.choice(string.ascii_lowercase)
            else:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters).encode()


def some(documents) -> list[bytes]:
    """Returns whole documents of about BYTES in all, or the beginning of the first."""
    taken = []
    for document in documents:
        taken.append(document[:BYTES].decode("utf-8", "ignore").encode())
        if sum(map(len, taken)) >= BYTES:
            break
    return taken


def texts_of(texts: protocol.Texts) -> dict[str, list[bytes]]:
    """Returns name -> documents."""
    plain, drawn = some(texts.documents("c4")), random.Random(0)
    found = {
        "C4": plain,
        "with typing errors": [with_typing_errors(d, drawn) for d in plain],
        "in capitals": [d.decode().upper().encode() for d in plain],
        "Python": some(path.read_bytes() for path in sorted(pathlib.Path(random.__file__).parent.glob("[a-m]*.py"))),
    }
    for name, language in (("German", "de"), ("Japanese", "ja")):
        if path := gettext.find("coreutils", "/usr/share/locale", [language]):
            with open(path, "rb") as file:
                messages = gettext.GNUTranslations(file)._catalog.values()
            found[name] = some(m.encode() for m in messages if len(m) > 40)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of results.jsonl and robustness.jsonl")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="same value as for run.py")
    arguments = parser.parse_args()
    results, table = report.Results(arguments.out), arguments.out / "robustness.jsonl"
    texts = protocol.Texts(arguments.data, arguments.work / "texts", 0)
    documents = texts_of(texts)
    done = {row["method"] for _, row in jsonl.read(table)} if table.exists() else set()
    for method in METHODS:
        if method in done:
            continue
        spec = protocol.METHODS[method].format(v=V, b=V.bit_length() - 1)
        encoded = protocol.encoded(spec, texts, arguments.work)
        rows = results.rows[(results.rows["method"] == method) & (results.rows["v"] == V)]
        best = rows.sort_values("seed").iloc[0]
        shape = models.TransformerConfig(models.model_vocab_size(V), d_ff=int(best["d_ff"]), **protocol.MODEL)
        config = dataclasses.replace(
            protocol.TRAIN, learning_rate=float(best["learning_rate"]), steps="1 epochs", checkpoint_every="100%"
        )
        folder = arguments.work / "run" / "robustness"
        result = train(config, shape, encoded.stores["train"], out=folder, mesh_shape=(1, 1, 1))
        shutil.rmtree(folder)
        found = []
        for name, text in documents.items():
            tokens = protocol.Tokens(encoded.codec, text)
            bits, n_bytes = evaluation.document_bits(result.params, shape, tokens, seq_len=config.seq_len)
            row = {"method": method, "text": name, "bytes_per_token": round(tokens.bytes_per_token, 4)}
            found.append(row | {"bits_per_byte": round(float(bits.sum() / n_bytes.sum()), 5)})
        with table.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in found))
    print(shown(table))
    return 0


def shown(table: pathlib.Path) -> str:
    """Returns the table of all texts: bits per byte, and bytes per token in brackets."""
    rows = scaling.read_table(table)
    rows["cell"] = [f"{row.bits_per_byte:.3f} ({row.bytes_per_token:.2f})" for row in rows.itertuples()]
    wide = rows.pivot(index="text", columns="method", values="cell")
    return report.markdown(wide.loc[rows["text"].unique(), rows["method"].unique()].reset_index())


if __name__ == "__main__":
    sys.exit(main())
