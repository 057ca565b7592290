"""Command `evaluate`: measures a run, as one row of the run table."""

import contextlib
import tempfile

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec_of, messages
from compressed_lm.errors import InputError


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run, or of an imported model")
    options.add_codec(parser, required=False, help="codec of the run, as for compress (default: RUN/codec)")
    parser.add_path("--store", kind=paths.READ, help="token store of validation documents")
    parser.add_path(
        "--corpus",
        kind=paths.CORPUS,
        help="in place of --store: source of the documents, as for compress; they are encoded first",
    )
    parser.add_argument("--split", help="split of --corpus (default validation, or the first one if there is none)")
    parser.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="read documents of --corpus up to this many bytes"
    )
    parser.add_path(
        "--train_store",
        kind=paths.READ,
        help="token store that the run was trained on, for the bytes it has read; an imported run needs none",
    )
    parser.add_argument(
        "--batch_size",
        type=options.whole(1),
        help="largest number of rows at a time (default: 32, fewer if their arrays would be large)",
    )
    parser.add_path("--table", kind=paths.FILE, help="run table (JSON lines) to append the row to; - prints it")


def run(arguments):
    from compressed_lm import scaling
    from compressed_lm.data.store import TokenStore
    from compressed_lm.evaluation.run_row import PRINTED, evaluate_run

    if (arguments.store is None) == (arguments.corpus is None):
        raise InputError(
            "The documents to evaluate were given twice, by --store and --corpus. Give one of them."
            if arguments.store
            else "No documents to evaluate were given. Give a token store (--store DIR) or a corpus (--corpus SPEC)."
        )
    if arguments.store and (arguments.split or arguments.max_bytes):
        raise InputError("--split and --max_bytes choose documents of --corpus, and --store was given. Leave them out.")
    if arguments.table:
        scaling.check_table(arguments.table)
    codec = load_codec_of(arguments.run, arguments.codec)
    with contextlib.ExitStack() as stack:
        row = evaluate_run(
            arguments.run,
            codec=codec,
            store=TokenStore.open(arguments.store) if arguments.store else _encoded(arguments, codec, stack),
            train_store=TokenStore.open(arguments.train_store) if arguments.train_store else None,
            batch_size=arguments.batch_size,
            show_progress=True,
        )
    for name in PRINTED:
        value = f"{row[name]:,.6g}" if isinstance(row[name], float) else f"{row[name]:,}"
        print(f"{name:24s} {value}", file=messages(arguments.table))
    if arguments.table:
        scaling.append_row(arguments.table, row)


def _encoded(arguments, codec, stack):
    """Returns a token store of --corpus in a temporary folder, which is removed when `stack` is closed."""
    from compressed_lm.data import job
    from compressed_lm.data.sources import open_corpus

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="compressed_lm_"))
    corpus = open_corpus(arguments.corpus)
    split = arguments.split or ("validation" if "validation" in corpus.splits else corpus.splits[0])
    return job.compress(corpus, split, codec, f"{folder}/store", max_bytes=arguments.max_bytes)


COMMAND = Command(
    "evaluate",
    "measure bits per byte and FLOPs per byte of a run, as one row of the run table",
    "compressed-lm evaluate runs/eiw --codec codecs/eiw16 --store stores/val --train_store stores/c4",
    add_arguments,
    run,
)
