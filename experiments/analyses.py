"""Stability, uniformity and predictability of the tokens of codecs (Lester et al. 2024, table 3 and section 6).

    python experiments/analyses.py "eiw(b=16,v=65536)" "ac(v=256)" "gzip(v=256)" bytes \
      --m1 DIR --corpus SPEC --max_bytes 1000000 --positions "eiw(b=64,v=256)" --out experiments/analyses

Runs `compressed_lm.token_analysis.analyses` and writes its tables and figures. With --positions, a small M2 is also
trained on the tokens of that codec, to measure its loss by the position of a token in its window (section 6.2). Its
token stores and its run are kept in the folder, so that a second run resumes.
"""

import argparse
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

from compressed_lm import codecs
from compressed_lm.codecs.eiw import Options
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data import job
from compressed_lm.data.corpus import Corpus
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.models import model_vocab_size
from compressed_lm.models.sizes import SIZES, model_config
from compressed_lm.pipelines import build_codec, refit
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.token_analysis import analyses
from compressed_lm.training import TrainConfig, train

M2 = TrainConfig(
    steps=400, batch_size=32, seq_len=128, learning_rate=1e-2, warmup_steps=40, optimizer="muon", schedule="wsd"
)
"""Training of M2. Rows of 128 tokens are 16 windows of `eiw(b=64,v=256)`."""


def open_codecs(names: Sequence[str], arguments, text: Corpus) -> Iterator[Codec]:
    """Returns codecs by spec or directory; compiled ones share their dictionaries."""
    m1 = m1_model.load_m1(arguments.m1) if arguments.m1 else None
    dictionaries = {}
    for name in names:
        if pathlib.Path(name).exists():
            yield codecs.load(name)
            continue
        spec = codecs.canonical_spec(name)
        family, options = codecs.parse_spec(spec)
        windows = family, *(options.get(option) for option in ("b", "align", "fill", "m1_reset"))
        if family == "eiw" and m1 and Options(**options).compiled and windows not in dictionaries:
            codec = refit.compile_codec(spec, m1)
            dictionaries[windows] = codec.dictionary
        else:
            codec = codecs.create(
                spec,
                m1=m1,
                documents=lambda: job.take_bytes(text.documents("train"), arguments.fit_bytes),
                dictionary=dictionaries.get(windows),
            )
        yield codec


def train_m2(codec: Codec, arguments, text: Corpus, held_out: Corpus) -> tuple[str, TokenStore]:
    """Returns (folder of an M2 trained on the tokens of the codec, its validation store)."""
    folder = arguments.out / build_codec.codec_folder(codec.spec)
    store = job.compress(text, "train", codec, folder / "train", n_shards=1, max_bytes=arguments.train_bytes)
    validation = job.compress(
        held_out, split_of(held_out), codec, folder / "validation", n_shards=1, max_bytes=arguments.max_bytes
    )
    model = model_config(arguments.size, model_vocab_size(codec.vocab_size))
    config = dataclasses.replace(M2, steps=arguments.steps, seed=arguments.seed)
    train(config, model, store, out=folder / "m2")
    return str(folder / "m2"), validation


def split_of(corpus: Corpus) -> str:
    return "validation" if "validation" in corpus.splits else corpus.splits[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="+", metavar="CODEC", help="spec such as 'gzip(v=256)', or codec directory")
    parser.add_argument("--m1", metavar="DIR", help="folder with m1.npz, for specs of ac and eiw")
    parser.add_argument("--corpus", required=True, metavar="SPEC", help="text to analyse (its validation split if any)")
    parser.add_argument(
        "--max_bytes", type=int, default=1_000_000, metavar="N", help="bytes of it (default %(default)s)"
    )
    parser.add_argument(
        "--train_corpus",
        metavar="SPEC",
        help="text whose training split fits unigrams, codecs and M2 (default: the corpus, which is only valid if it "
        "has a validation split)",
    )
    parser.add_argument(
        "--fit_bytes", type=int, default=1_000_000, metavar="N", help="bytes for fits (default %(default)s)"
    )
    parser.add_argument(
        "--prefixes", type=int, default=500, metavar="N", help="prefixes for stability (default %(default)s)"
    )
    parser.add_argument(
        "--text_documents", type=int, default=200, metavar="N", help="documents for texts of ids (default %(default)s)"
    )
    parser.add_argument("--positions", metavar="CODEC", help="train M2 on this codec, such as 'eiw(b=64,v=256)'")
    parser.add_argument("--size", choices=SIZES, default="micro", help="size of M2 (default %(default)s)")
    parser.add_argument("--steps", type=int, default=M2.steps, help="steps of M2 (default %(default)s)")
    parser.add_argument(
        "--train_bytes", type=int, default=2_000_000, metavar="N", help="bytes of text for M2 (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for tables and figures")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def run(arguments) -> None:
    held_out = open_corpus(arguments.corpus)
    text = open_corpus(arguments.train_corpus) if arguments.train_corpus else held_out
    documents = list(job.take_bytes(held_out.documents(split_of(held_out)), arguments.max_bytes))
    fit_documents = list(job.take_bytes(text.documents("train"), arguments.fit_bytes))
    names = [*arguments.codecs, *([arguments.positions] if arguments.positions else [])]
    opened = list(open_codecs(names, arguments, text))
    chosen = {codec.spec: codec for codec in opened}
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    if arguments.positions:
        codec = opened[-1]
        runs[codec.spec] = train_m2(codec, arguments, text, held_out)
    analyses.analyse(
        list(chosen.values()),
        documents,
        arguments.out,
        # Without a separate training split, the unigrams would be fitted on the text that they are tested on.
        fit_documents=None if text is held_out and len(held_out.splits) == 1 else fit_documents,
        runs=runs,
        n_prefixes=arguments.prefixes,
        text_documents=arguments.text_documents,
        seed=arguments.seed,
    )
    (arguments.out / "command.txt").write_text(shlex.join(["python", *sys.argv]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
