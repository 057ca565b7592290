"""Command `weights`: fits distributions to the weights of a run."""

from compressed_lm.commands import paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import messages, show_table


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run, packed or not")
    parser.add_path(
        "--out", kind=paths.FILE, help="HTML page to write: the table, and histograms with fitted densities"
    )


def run(arguments):
    from compressed_lm.reports.weights import weight_report
    from compressed_lm.tracking.progress import progress

    with progress("fit weights", None, unit="weights") as bar:
        report = weight_report(arguments.run, out=arguments.out, progress=lambda done, _: bar.advance(done - bar.done))
    show_table(report.table(), file=messages(arguments.out))
    if arguments.out:
        print(f"The report is {arguments.out}.", file=messages(arguments.out))


COMMAND = Command(
    "weights",
    "fit distributions to the weights of a run: generalized Gaussian shapes, and which family fits best",
    "compressed-lm weights runs/eiw --out runs/eiw/weights.html",
    add_arguments,
    run,
)
