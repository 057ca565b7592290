"""Verbs that look at the weights of a run and make them smaller. Imports wait until their verb runs, so that `--help`
is instant."""

import math
import pathlib

from compressed_lm import io
from compressed_lm.commands.common import load_codec, messages


def quantize(arguments):
    """Packs a finished run, and tells how large and how exact the result is."""
    import numpy as np
    from rich.table import Table

    from compressed_lm import weights
    from compressed_lm.post_training import quantize
    from compressed_lm.terminal import cell
    from compressed_lm.training import run_dir

    form = weights.representation(arguments.format)
    matrices = quantize.quantize_run(arguments.run, form, out=arguments.out, others=arguments.others)
    table = Table("matrix", "layers x inputs x outputs", "bits per weight", "squared error")
    for column in table.columns[2:]:
        column.justify = "right"
    for m in matrices:
        table.add_row(cell(m.name), " x ".join(map(str, m.shape)), f"{m.bits_per_weight:.3f}", f"{m.error:.3g}")
    _show(table)
    sizes = [np.prod(m.shape) for m in matrices]
    bits = np.average([m.bits_per_weight for m in matrices], weights=sizes)
    size = (pathlib.Path(arguments.out) / run_dir.WEIGHTS).stat().st_size
    print(
        f"{arguments.out}: {sum(sizes):,} weights of the blocks in {form} take {bits:.3f} bits each; with all else in "
        f"{arguments.others} the file has {size:,} bytes. Gaussian weights would have the error {form.gmse():.3g}."
    )


def weights(arguments):
    """Fits distributions to the weights of a run."""
    from compressed_lm.reports.weights import weight_report
    from compressed_lm.tracking.progress import progress

    with progress("fit weights", None, unit="weights") as bar:
        report = weight_report(arguments.run, out=arguments.out, progress=lambda done, _: bar.advance(done - bar.done))
    _show(report.table(), file=messages(arguments.out))
    if arguments.out:
        print(f"The report is {arguments.out}.", file=messages(arguments.out))


def pack(arguments):
    """Codes a finished run into one file, and tells how large and how exact the result is."""
    from rich.table import Table

    from compressed_lm.post_training import entropy_code
    from compressed_lm.terminal import cell

    rows = entropy_code.pack_run(arguments.run, step=arguments.step, coder=arguments.coder, out=arguments.out)
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
    _show(table, file=out)
    whole = ""
    if not io.is_stream(arguments.out):
        size = pathlib.Path(arguments.out).stat().st_size
        whole = (
            f" in {size:,} bytes on disk, everything included: {8 * size / n:.3f} bits a weight, {4 * n / size:.2f} "
            f"times smaller than float32 and {2 * n / size:.2f} times than bfloat16"
        )
    bits = entropy_code.bits_per_weight(rows)
    print(f"{arguments.out}: {n:,} weights{whole}. The quantised ones take {bits:.3f} bits each.", file=out)


def unpack(arguments):
    """Writes the run of a packed file as a folder."""
    from compressed_lm.post_training import entropy_code

    codec = load_codec(arguments.codec) if arguments.codec else None
    entropy_code.unpack_run(arguments.file, out=arguments.out, codec=codec)
    print(f"{arguments.out}: the quantised weights in float32; evaluate and generate take it like any run.")


def reshape(arguments):
    """Writes a run with reshaped weights."""
    import numpy as np

    from compressed_lm.post_training import quantize

    widths = quantize.reshape_run(
        arguments.run,
        out=arguments.out,
        pooled=arguments.pooled,
        shape_factor=arguments.shape_factor,
        scale_factor=arguments.scale_factor,
        method=arguments.method,
    )
    ratios = [after / before for before, after in widths.values()]
    print(
        f"{arguments.out}: {len(ratios)} matrices, their standard deviations times {min(ratios):.3f} to "
        f"{max(ratios):.3f}, {np.mean(ratios):.3f} on average. Train on from them with `compressed-lm train --start "
        f"{arguments.out}`."
    )


def _show(table, *, file=None):
    """Prints a table, in full width where nobody's terminal is too narrow for it."""
    from rich.console import Console

    console = Console(file=file)
    if not console.is_terminal:
        console.width = max(console.width, 150)
    console.print(table)
