"""Command `fit`: fits a scaling law to a table of runs."""

import contextlib
import shlex
import sys

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import messages


def add_arguments(parser):
    from compressed_lm.scaling.laws import LAWS

    parser.add_path(
        "runs", kind=paths.READ, nargs="+", help="CSV, JSON or JSON lines, one row per run; - for standard input"
    )
    parser.add_argument("--law", default="chinchilla", help=f"{', '.join(LAWS)} (default %(default)s)")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="column of the table for n_params, tokens, loss, format, gmse or bits, if it has another name "
        "(repeatable; commas for a product); run tables of this package need no loss, format or gmse",
    )
    parser.add_argument(
        "--let",
        action="append",
        default=[],
        metavar="COLUMN=EXPR",
        help="add a column by a pandas expression (repeatable)",
    )
    parser.add_argument("--where", help="fit the rows for which this pandas expression is true")
    parser.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a parameter, or free a fixed one: L=free (repeatable)",
    )
    parser.add_argument("--shared", action="store_true", help="factors of a product share their parameters")
    parser.add_argument("--reference", help="format with capacity 1 (default dense)")
    parser.add_argument(
        "--delta",
        type=options.real(above=0),
        default=1e-3,
        help="threshold of the Huber loss (default %(default)s)",
    )
    parser.add_argument(
        "--loss_space",
        choices=("log", "raw"),
        default="log",
        help="residuals of the log of the loss, or of the loss (default %(default)s)",
    )
    parser.add_argument(
        "--bootstrap",
        type=options.whole(),
        default=1000,
        help="resampled tables for intervals, 0 for none (default %(default)s)",
    )
    parser.add_argument("--seed", type=options.whole(), default=0, help="seed of the bootstrap (default %(default)s)")
    parser.add_path("--report", kind=paths.FILE, help="HTML file to write, or - for standard output")


def run(arguments):
    from compressed_lm import scaling
    from compressed_lm.tracking.progress import progress

    if arguments.report:
        io.check_output(arguments.report, "The report")
    with contextlib.ExitStack() as stack:
        bar = None
        if arguments.bootstrap:
            bar = stack.enter_context(progress("bootstrap", arguments.bootstrap, unit="tables"))
        result = scaling.fit_tables(
            arguments.runs,
            arguments.law,
            columns=arguments.column,
            let=arguments.let,
            where=arguments.where,
            fixed=arguments.fix,
            shared=arguments.shared,
            reference=arguments.reference,
            delta=arguments.delta,
            loss_space=arguments.loss_space,
            samples=arguments.bootstrap,
            seed=arguments.seed,
            progress=bar and (lambda done, _: bar.advance(done - bar.done)),
        )
    written = ""
    if arguments.report:
        from compressed_lm.reports import fit

        fit.write_report(result, arguments.report, command=shlex.join(["compressed-lm", *sys.argv[1:]]))
        written = f"\n\nThe report is {arguments.report}."
    print(result.summary() + written, file=messages(arguments.report))


COMMAND = Command(
    "fit",
    "fit a scaling law to a table of runs, with intervals and a report",
    "compressed-lm fit runs.csv --law tanh --report out.html",
    add_arguments,
    run,
)
