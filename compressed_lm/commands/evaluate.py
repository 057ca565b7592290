"""Command `evaluate`: measures a run, as one row of the run table."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec, messages


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    options.add_codec(parser)
    parser.add_path("--store", kind=paths.READ, required=True, help="token store of validation documents")
    parser.add_path("--train_store", kind=paths.READ, required=True, help="token store that the run was trained on")
    parser.add_path("--table", kind=paths.FILE, help="run table (JSON lines) to append the row to; - prints it")


def run(arguments):
    from compressed_lm import scaling
    from compressed_lm.data.store import TokenStore
    from compressed_lm.evaluation.run_row import PRINTED, evaluate_run

    if arguments.table:
        scaling.check_table(arguments.table)
    row = evaluate_run(
        arguments.run,
        codec=load_codec(arguments.codec),
        store=TokenStore.open(arguments.store),
        train_store=TokenStore.open(arguments.train_store),
    )
    for name in PRINTED:
        value = f"{row[name]:,.6g}" if isinstance(row[name], float) else f"{row[name]:,}"
        print(f"{name:24s} {value}", file=messages(arguments.table))
    if arguments.table:
        scaling.append_row(arguments.table, row)


COMMAND = Command(
    "evaluate",
    "measure bits per byte and FLOPs per byte of a run, as one row of the run table",
    "compressed-lm evaluate runs/eiw --codec codecs/eiw16 --store stores/val --train_store stores/c4",
    add_arguments,
    run,
)
