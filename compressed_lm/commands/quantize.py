"""Command `quantize`: packs the block matrices of a finished run in a compressed format."""

from compressed_lm.commands import paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import show_table


def add_arguments(parser):
    from compressed_lm import weights

    formats = ", ".join(family.example for family in weights.FAMILIES.values() if family.stored)
    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    parser.add_argument(
        "--format",
        required=True,
        help=f"representation of the block matrices: {formats}; or sparsity and a format: nm(n=2,m=4)+int(b=4)",
    )
    parser.add_argument(
        "--others",
        default="keep",
        help="representation of all other parameters, such as dense(dtype=bfloat16) (default %(default)s: as the run "
        "stores them)",
    )
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="new folder")


def run(arguments):
    import numpy as np
    from rich.table import Table

    from compressed_lm import weights
    from compressed_lm.io import remote
    from compressed_lm.post_training.quantize import quantize_run
    from compressed_lm.terminal import cell
    from compressed_lm.training import run_dir

    form = weights.representation(arguments.format)
    matrices = quantize_run(arguments.run, form, out=arguments.out, others=arguments.others)
    table = Table("matrix", "layers x inputs x outputs", "bits per weight", "squared error")
    for column in table.columns[2:]:
        column.justify = "right"
    for m in matrices:
        table.add_row(cell(m.name), " x ".join(map(str, m.shape)), f"{m.bits_per_weight:.3f}", f"{m.error:.3g}")
    show_table(table)
    sizes = [np.prod(m.shape) for m in matrices]
    bits = np.average([m.bits_per_weight for m in matrices], weights=sizes)
    others = "as they were" if arguments.others == "keep" else f"in {arguments.others}"
    size = remote.sizes(arguments.out)[run_dir.WEIGHTS]
    print(
        f"{arguments.out}: {sum(sizes):,} weights of the blocks in {form} take {bits:.3f} bits each; with all other "
        f"parameters {others} the file has {size:,} bytes. Error of Gaussian weights: {form.gmse():.3g}."
    )


COMMAND = Command(
    "quantize",
    "pack the block matrices of a finished run in a compressed format; evaluate and generate accept the result",
    "compressed-lm quantize runs/eiw --format 'int(b=4,g=32)' --out runs/eiw-int4",
    add_arguments,
    run,
    writes=True,
)
