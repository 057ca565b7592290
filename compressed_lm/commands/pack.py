"""Command `pack`: writes a finished run as one file of quantised, entropy-coded weights."""

import math

from compressed_lm import io
from compressed_lm.commands import paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import messages, show_table


def add_arguments(parser):
    from compressed_lm.weights.bitstream import CODERS

    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    parser.add_argument(
        "--step",
        required=True,
        help="distance between levels: 0.01, or 0.25std for a multiple of the standard deviation of each array",
    )
    parser.add_argument("--coder", default="range", help=f"entropy coder: {', '.join(CODERS)} (default %(default)s)")
    parser.add_path("--out", kind=paths.FILE, required=True, help="new file, or - for standard output")


def run(arguments):
    from rich.table import Table

    from compressed_lm.post_training.entropy_code import bits_per_weight, pack_run
    from compressed_lm.terminal import cell

    rows = pack_run(arguments.run, step=arguments.step, coder=arguments.coder, out=arguments.out)
    table = Table("tensor", "shape", "step", "levels", "entropy", "EG0", "stored bits", "squared error")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        measured, error = ("float32", "", "", ""), "0"
        if row.step is not None:
            measured = f"{row.step:.3g}", f"{row.n_levels:,}", f"{row.entropy:.3f}", f"{row.eg0:.3f}"
            error = f"{row.error:.3g}"
        table.add_row(cell(row.name), " x ".join(map(str, row.shape)), *measured, f"{row.bits_per_weight:.3f}", error)
    out, n = messages(arguments.out), sum(math.prod(row.shape) for row in rows)
    show_table(table, file=out)
    whole = ""
    if not io.is_stream(arguments.out):
        size = io.remote.size(arguments.out)
        whole = (
            f" in {size:,} bytes on disk in all: {8 * size / n:.3f} bits per weight, {4 * n / size:.2f} "
            f"times smaller than float32 and {2 * n / size:.2f} times smaller than bfloat16"
        )
    print(
        f"{arguments.out}: {n:,} weights{whole}. The quantised weights take {bits_per_weight(rows):.3f} bits each."
        f"{_codec_note(arguments.run)}",
        file=out,
    )


def _codec_note(run):
    """Returns a sentence on the codec of a run, or '' if its folder has none."""
    from compressed_lm.post_training.entropy_code import codec_files
    from compressed_lm.weights import bitstream

    files = codec_files(run)
    if not files or bitstream.fits(files):
        return " The run's codec is included." if files else ""
    return (
        f" The run's codec is not included: its files have {sum(map(len, files.values())):,} bytes, and a packed file "
        f"holds at most {bitstream.MAX_FILES:,}. Keep {run}/codec, and give it to unpack as --codec."
    )


COMMAND = Command(
    "pack",
    "write a finished run as one file of quantised, entropy-coded weights",
    "compressed-lm pack runs/eiw --step 0.25std --coder range --out runs/eiw.clb",
    add_arguments,
    run,
    writes=True,
)
