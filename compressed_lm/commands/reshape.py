"""Command `reshape`: reshapes the weights of a finished run to another distribution (DeepShape)."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    parser.add_argument(
        "--shape_factor",
        type=options.real(above=0),
        default=0.8,
        help="factor of the shape parameter (default %(default)s)",
    )
    parser.add_argument(
        "--scale_factor",
        type=options.real(above=0),
        default=0.6,
        help="factor of the scale parameter (default %(default)s)",
    )
    parser.add_argument("--method", default="histogram", help="histogram or smooth (default %(default)s)")
    parser.add_argument("--pooled", action="store_true", help="one fit for all matrices instead of one per matrix")
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="new folder")


def run(arguments):
    import numpy as np

    from compressed_lm.post_training.quantize import reshape_run

    widths = reshape_run(
        arguments.run,
        out=arguments.out,
        pooled=arguments.pooled,
        shape_factor=arguments.shape_factor,
        scale_factor=arguments.scale_factor,
        method=arguments.method,
    )
    ratios = [after / before for before, after in widths.values()]
    print(
        f"{arguments.out}: {len(ratios)} matrices; standard deviations multiplied by {min(ratios):.3f} to "
        f"{max(ratios):.3f}, {np.mean(ratios):.3f} on average. Continue training from them with `compressed-lm train "
        f"--start {arguments.out}`."
    )


COMMAND = Command(
    "reshape",
    "reshape the matrices of a finished run to another generalized Gaussian (DeepShape)",
    "compressed-lm reshape runs/eiw --out runs/eiw-reshaped",
    add_arguments,
    run,
    writes=True,
)
