"""Progressive cramming of a pretrained model: tokens and information in one or a few input vectors.

    python experiments/smollm2/cramming.py runs/smollm2 --start 0 --corpus "json:$C4/c4-train*" \\
      --validation "json:$C4/c4-validation*" --out experiments/recorded/smollm2

Settings are those of Tarasov et al. 2026 (`--recipe tarasov2026`). Cells (source, K, tokens, texts) are measured one
after the other: a row per text is appended to OUT/cramming.jsonl, the vectors of all stages go to OUT/NAME.npz. The
command resumes if interrupted, inside a cell too. It ends with the page (`cramming_report.py`), which can be made from
unfinished work at any time: texts that are still running count with the tokens that they have restored so far.
"""

import argparse
import dataclasses
import json
import pathlib
import resource
import sys
import time

import numpy as np

from compressed_lm import codecs
from compressed_lm.commands.common import load_codec
from compressed_lm.cramming import CramConfig, FrozenModel, compressors, cram, read, read_alone, vector_files, write
from compressed_lm.cramming.code_length import coded_bits_alone
from compressed_lm.cramming.config import RECIPES
from compressed_lm.cramming.texts import frequent_words, natural, random_words
from compressed_lm.data.job import take_bytes
from compressed_lm.data.sources import open_corpus
from compressed_lm.io import jsonl
from compressed_lm.pipelines.m1 import PRETRAINED, load_m1
from compressed_lm.tracking.progress import progress
from compressed_lm.training import load_run
from compressed_lm.training.run_dir import own_codec

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cramming_report

CELLS = ("natural:1:96:10", "words:1:96:10", "natural:4:192:3", "words:4:192:3")
LONGEST = 192
"""Tokens for which texts are drawn; cells use their beginnings, so that K = 1 and K = 4 have the same texts."""

WORDS = 100_000
"""Most frequent words that random ones are drawn from, or all if there are fewer; as many as in the paper."""

BYTES = 64_000_000


@dataclasses.dataclass(frozen=True)
class Cell:
    """Cell of the experiment: `n_texts` texts of a source, of `length` tokens, crammed into k vectors."""

    source: str
    k: int
    length: int
    n_texts: int

    @classmethod
    def of(cls, text: str) -> "Cell":
        """Returns the cell of "source:K:tokens:texts"."""
        source, *numbers = text.split(":")
        return cls(source, *map(int, numbers))

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"cramming_{self.source}_k{self.k}"


def texts_of(arguments, codec, n_texts):
    """Returns the texts of each source."""
    settings = dict(n_tokens=LONGEST, n_texts=n_texts, seed=arguments.seed)
    corpus = open_corpus(arguments.corpus, validation=arguments.validation)
    documents = lambda split: list(take_bytes(corpus.documents(split), BYTES))  # noqa: E731
    words = frequent_words(documents("train"), WORDS)
    print(f"random words are drawn from {len(words):,} words", file=sys.stderr)
    return {
        "natural": natural(documents("validation"), codec, **settings),
        "words": random_words(words, codec, **settings),
    }


def measure(model, codec, cell, texts, config, out, slots):
    """Returns the rows of a cell; its state and its vectors are files in `out`."""
    m1 = codecs.create("ac", m1=load_m1(PRETRAINED))
    begun, state = time.time(), out / f"{cell.name}.state"
    with progress(cell.name, config.steps * len(texts), unit="steps") as bar:
        show = lambda status: bar.advance(status.steps - bar.done, restored=f"{status.accuracy:.1%}")  # noqa: E731
        found = cram(model, texts, config, slots=slots, state=state, progress=show)
    vectors = [f.vectors for f in found]
    alone, after = (read_alone(model, texts, slots=4), read(model, vectors, texts, slots=4))
    written = write(model, vectors, [len(ids) for ids in texts], slots=slots)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    common = {
        "cell": cell.name,
        "source": cell.source,
        "k": cell.k,
        "length": cell.length,
        "config": dataclasses.asdict(config),
        "model": model.fingerprint,
        "start": model.eod_id,
        "seconds": round(time.time() - begun, 1),  # of this process: less than all if the cell was interrupted
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    rows = []
    for i, (ids, f, a, b, own) in enumerate(zip(texts, found, alone, after, written, strict=True)):
        data = codec.decode_partial(ids[: f.score])
        sizes = compressors.sizes(data) | {"m1_bytes": len(m1.encode(data))}
        sizes["ac_bytes"] = int(coded_bits_alone(model, [ids[: f.score]])) // 8 if f.score else 0
        rows.append(
            common
            | {"text": i, "score": f.score, "steps": f.steps, "best_step": f.best_step, "text_bytes": len(data)}
            | {name: [round(float(x), 4) for x in r.nats] for name, r in (("nats_alone", a), ("nats", b))}
            | {name: [int(x) for x in r.right] for name, r in (("right_alone", a), ("right", b))}
            | {"greedy": own.tolist(), "ids": ids.tolist(), "sizes": sizes, "vectors_bytes": 4 * f.vectors.size}
        )
    vector_files.write_all(out / f"{cell.name}.npz", found)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="folder of an imported run")
    parser.add_argument("--codec", help="its codec directory (default: RUN/codec)")
    parser.add_argument("--corpus", required=True, help="corpus whose words are drawn")
    parser.add_argument("--validation", required=True, help="corpus of the natural texts")
    parser.add_argument("--cells", nargs="+", default=CELLS, help="source:K:tokens:texts (default %(default)s)")
    parser.add_argument("--steps", type=int, help="updates per text (default: that of the recipe)")
    parser.add_argument("--patience", type=int, help="updates per new token (default: that of the recipe)")
    parser.add_argument(
        "--start", type=int, help="id before a text without vectors (default: the run's end-of-document)"
    )
    parser.add_argument("--slots", type=int, default=10, help="texts at once (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of texts and vectors (default %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of rows, vectors and figure")
    arguments = parser.parse_args()
    cells = [Cell.of(text) for text in arguments.cells]
    codec = load_codec(arguments.codec or str(own_codec(arguments.run)))
    model = FrozenModel.from_run(load_run(arguments.run, codec=codec))
    if arguments.start is not None:
        model = dataclasses.replace(model, eod_id=arguments.start)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / cramming_report.ROWS
    known = {row["cell"] for _, row in jsonl.read(table, skip_damaged=True)} if table.exists() else set()
    texts = texts_of(arguments, codec, max(cell.n_texts for cell in cells))
    given = {"steps": arguments.steps, "patience": arguments.patience}
    settings = RECIPES["tarasov2026"] | {name: value for name, value in given.items() if value}
    for cell in cells:
        if cell.name in known:
            continue
        config = CramConfig(**settings, n_vectors=cell.k, seed=arguments.seed)
        chosen = [np.asarray(ids[: cell.length]) for ids in texts[cell.source][: cell.n_texts]]
        rows = measure(model, codec, cell, chosen, config, arguments.out, arguments.slots)
        with table.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        (arguments.out / f"{cell.name}.state").unlink(missing_ok=True)
    cramming_report.write(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
