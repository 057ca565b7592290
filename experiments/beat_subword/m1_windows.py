"""Gain of Equal-Info Windows by their rules and by a better M1: a model for each.

    python experiments/beat_subword/m1_windows.py --data $COMPRESSED_LM_DATA --out experiments/recorded/beat_subword \\
      --work runs/levers

Windows of 12 bits, compiled to 4,096 strings, with the pretrained M1 and with M1s with a tenth of its training or fewer
layers; SentencePiece for comparison. Texts, seed, learning rate and FLOPs per byte are those of levers.py. Appends to
OUT/m1_windows.jsonl; rows in the file are not trained again.
"""

import argparse
import json
import pathlib
import sys

import jax
import levers
import protocol
import report

from compressed_lm import cli, codecs, scaling
from compressed_lm.io import jsonl
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.pipelines import refit

M1_STEPS = 700
M1S = {  # options of `train-m1` besides m1/en.gin; the pretrained M1 was trained for 7,000 steps
    "ships": None,
    "a tenth of the steps": [],
    "a tenth of the steps, one layer": ["--set", "model.n_layers=1"],
}
NODE, BEST, WORD, BOTH = (
    f"eiw({options.format(v=levers.V)})"
    for options in ("b=12,v={v}", "b=12,fill=best,v={v}", "align=word,b=12,v={v}", "align=word,b=12,fill=best,v={v}")
)
WINDOWS = (  # lever, M1, codec, number of refits of M1 to the starts of windows
    ("windows of equal information", "ships", NODE, 0),
    ("word-aligned", "ships", WORD, 0),
    ("likeliest strings", "ships", BEST, 0),
    ("likeliest strings, word-aligned", "ships", BOTH, 0),
    ("likeliest strings, word-aligned", "a tenth of the steps", BOTH, 0),
    ("likeliest strings, word-aligned", "a tenth of the steps, one layer", BOTH, 0),
    ("likeliest strings, word-aligned, refitted to starts", "a tenth of the steps", BOTH, 2),
)


def trained(m1: str, texts: protocol.Texts, work: pathlib.Path) -> pathlib.Path | str:
    """Returns the folder of an M1; trains it unless it exists."""
    if M1S[m1] is None:
        return m1_model.PRETRAINED
    out = work / f"m1-{list(M1S).index(m1)}"
    if not (out / m1_model.M1_FILE).exists():
        arguments = ["--gin", "m1/en.gin", "--steps", str(M1_STEPS), "--set", "train.warmup_steps=70", *M1S[m1]]
        corpora = [f"json:{texts.files['learn']}", "--validation", f"json:{texts.files['dev']}"]
        if code := cli.main(["train-m1", *arguments, "--corpus", *corpora, "--out", str(out)]):
            sys.exit(code)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of levers.jsonl and m1_windows.jsonl")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for texts, M1s, codecs and runs")
    parser.add_argument(
        "--train_bytes", type=int, default=1_000_000, help="bytes of text to train on (default %(default)s)"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    work = arguments.work
    texts = protocol.Texts(arguments.data, work / "texts", arguments.train_bytes)
    table = arguments.out / "m1_windows.jsonl"
    done = {(row["lever"], row["M1"]) for _, row in jsonl.read(table)} if table.exists() else set()
    flops = levers.flops_per_byte(texts, work)
    for lever, name, spec, rounds in WINDOWS:
        if (lever, name) in done:
            continue
        folder = trained(name, texts, work)
        m1 = m1_model.load_m1(folder)
        if rounds:
            codec = refit.refit(spec, folder, rounds=rounds, out=work / "refitted")
        else:
            codec = codecs.create(spec, m1=m1)
        bits = m1_model.exact_bits_per_byte(m1, texts.documents("dev"))
        row = {"lever": lever, "M1": name, "m1_bits_per_byte": round(bits, 4)}
        row |= levers.measure(codec, texts, work, flops)
        with table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{lever}, {name}: {row['dev_bits_per_byte']:.4f}", flush=True)
    print(shown(table, arguments.out / "levers.jsonl"))
    return 0


def shown(table: pathlib.Path, others: pathlib.Path) -> str:
    """Returns the table of all windows, with the SentencePiece row of levers.py."""
    rows, beside = scaling.read_table(table), scaling.read_table(others).iloc[0]["dev_bits_per_byte"]
    rows["beside sentencepiece"] = (rows["dev_bits_per_byte"] - beside).map("{:+.3f}".format)
    rows["M1: bits per byte"] = rows["m1_bits_per_byte"].map("{:.3f}".format)
    rows["dev_bits_per_byte"] = rows["dev_bits_per_byte"].map("{:.3f}".format)
    rows["bytes_per_token"] = rows["bytes_per_token"].map("{:.2f}".format)
    columns = ["lever", "M1", "M1: bits per byte", "bytes_per_token", "dev_bits_per_byte", "beside sentencepiece"]
    return report.markdown(rows[columns])


if __name__ == "__main__":
    sys.exit(main())
