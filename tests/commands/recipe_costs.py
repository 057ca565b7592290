"""Text, size and cost of the token stores that the recipes need: lines in the heads of the gin files.

    python tests/commands/recipe_costs.py                      # writes the lines and --max_bytes into gin_configs/runs
    python tests/commands/recipe_costs.py 'json:FILES' CODEC   # measures speeds

The lines are arithmetic on the recipes and on the speeds below.
"""

import math
import re
import sys
import time

from compressed_lm import codecs, configuration
from compressed_lm.commands.common import load_codec
from compressed_lm.data import estimate, sources
from compressed_lm.data.job import SHARD_BYTES
from compressed_lm.data.shards import id_dtype
from compressed_lm.models import count_params, model_config

RUNS = configuration.GIN_FILES / "runs"
FILES = sorted([*RUNS.glob("paper_*.gin"), *RUNS.glob("modern_*.gin"), RUNS / "pieces_v65536.gin"])

C4_BYTES, C4_DOCUMENTS = 806e9, 365e6
MARGIN = 1.01  # end-of-document tokens take places, too, and another M1 compresses differently

# Megabytes of text that one core reads, and encodes with all checks, in a second of its own time: the speeds of
# `compress --dry_run` on $COMPRESSED_LM_DATA/corpora/c4_en/c4-train*, measured as above on 2 cores of an Intel Xeon.
# Writing is not in it.
READ = 105
ENCODE = {
    "bytes": 228,
    "sentencepiece": 8.2,
    "pieces": 72,
    "gzip(v=256)": 22.5,
    "gzip(v=65536)": 15.6,
    "static_ac(v=256)": 19.5,
    "static_ac(v=65536)": 11.4,
    "eiw(b=16,v=256)": 31.7,
    "eiw(b=16,v=65536)": 175,
}
# Codecs that run M1: kilobytes that 2 cores of an AMD EPYC encode in a second with an M1 of the paper's shape
# (benchmarks/README.md, `coder.py --size 3m`; eiw with b=32 and 64 documents).
M1_KILOBYTES = {"ac": 180, "eiw": 176}


def lines(file):
    """Returns the lines of the head of a gin file that say what its store takes, by their first words."""
    configuration.load([str(file)])
    config, data = configuration.train(), configuration.data()
    n_tokens = config.steps * config.batch_size * config.seq_len
    n_bytes = n_tokens * data.bytes_per_token
    given = max_bytes(file)
    itemsize = id_dtype(data.vocab_size).itemsize
    store = given / data.bytes_per_token * itemsize * 1.001 + 20.1 * given * C4_DOCUMENTS / C4_BYTES
    name = codecs.parse_spec(data.codec)[0]
    rows = {
        "text": f"{n_bytes / 1e9:.1f} GB  ({n_tokens / 1e9:.1f} billion tokens x {data.bytes_per_token:g}; "
        f"with 1 % more {percent(given)} of C4)",
        "token store": f"{store / 1e9:.1f} GB  ({itemsize} byte{'s' * (itemsize > 1)} a token, 20 a document)",
    }
    if runs_m1(data.codec):
        hours = given / (M1_KILOBYTES[name] * 1e3) * 2 / 3600
        flops = 2 * count_params(model_config("3m", 264)).non_embedding * given
        source = f"arithmetic: measured {M1_KILOBYTES[name]} kB/s on 2 cores with an M1 of this shape"
        rows["FLOPs of M1"] = f"{flops:.2e}  (2 N a byte; its speed on accelerators was not measured)".replace(
            "e+", "e"
        )
    else:
        speed = 1 / (1 / READ + 1 / ENCODE.get(data.codec, ENCODE.get(name, 0)))
        hours = given / (speed * 1e6) / 3600
        source = f"arithmetic: measured {speed:.1f} MB/s on one core"
    return rows | {"CPU core-hours to compress": f"{significant(hours)}  ({source})"}


def max_bytes(file):
    """Returns the bytes of text that the first command of a file takes: 1 % more than the steps read, in whole GB."""
    configuration.load([str(file)])
    config, data = configuration.train(), configuration.data()
    return math.ceil(config.steps * config.batch_size * config.seq_len * data.bytes_per_token * MARGIN / 1e9) * 10**9


def runs_m1(spec):
    name, options = codecs.parse_spec(spec)
    return name == "ac" or (name == "eiw" and int(options["b"]) > 16)


def significant(number):
    """Returns a number with two significant digits and separators."""
    return f"{float(f'{number:.2g}'):,g}"


def percent(n_bytes):
    return f"{n_bytes / C4_BYTES:.0%}".replace("%", " %")


def formatted(file):
    """Returns the lines as they are in the file."""
    return [f"# {name:<28} {value}" for name, value in lines(file).items()]


def write(file):
    """Replaces the lines in a file, and the bytes that its first command takes."""
    text = file.read_text()
    names = "|".join(re.escape(name) for name in ("text", "token store", "FLOPs of M1", "CPU core-hours to compress"))
    text = re.sub(rf"^# (?:{names}) {{2,}}.*\n", "", text, flags=re.MULTILINE)
    head = text.split("\ninclude")[0].splitlines()
    last = [line for line in head if line.startswith(("# v5e chip-hours", "#   compressed-lm"))][-1]
    before = last if last.startswith("# v5e") else f"{last}\n#"
    text = text.replace(before, "\n".join([before, *formatted(file)]), 1)
    command = r"(compress --corpus tfds:c4/en:3.1.0)(?: --max_bytes \d+)?( --codec)"
    file.write_text(re.sub(command, rf"\1 --max_bytes {max_bytes(file)}\2", text))


def measure(corpus, spec, times=5):
    """Prints the best speeds of a core that reads and encodes a corpus."""
    estimate.time.perf_counter = time.process_time
    corpus, codec = sources.open_corpus(corpus), load_codec(spec)
    found = [estimate.estimate(corpus, "train", codec, shard_bytes=SHARD_BYTES) for _ in range(times)]
    read, encode = (max(getattr(one, f"{name}_bytes_per_second") for one in found) for name in ("read", "encode"))
    print(f"{spec}: reads {read / 1e6:.1f} MB/s, encodes {encode / 1e6:.2f} MB/s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        for recipe in FILES:
            write(recipe)
