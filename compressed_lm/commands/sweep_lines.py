"""The command line of the verb that trains a grid of runs."""

from collections.abc import Callable

from compressed_lm.commands import options, runs


def add(verb: Callable, codec_help: str) -> None:
    """Adds the verb; `verb` makes its parser from its name, function, summary and example."""
    sweep = verb(
        "sweep",
        runs.sweep,
        "train and evaluate a grid of models on the same text: codec x size x tokens x seed",
        "compressed-lm sweep --gin recipes/modern.gin --codec bytes eiw16-en 'gzip(v=256)' --size 25m 113m "
        "--tokens 100M --seed 0 1 2 --out runs/sweep",
    )
    options.corpus(sweep)
    sweep.add_argument(
        "--codec",
        nargs="+",
        required=True,
        help="codecs: directories, dictionary files, names of codecs that ship, or spellings to build: " + codec_help,
    )
    sweep.add_argument("--m1", help="folder of `train-m1`, or pretrained, for the ac and eiw that are built")
    sweep.add_argument("--size", nargs="+", default=[], help="model sizes (default: that of the gin files)")
    sweep.add_argument(
        "--tokens",
        nargs="+",
        default=[],
        help="lengths: 20M (tokens), 300MB (of text), '2 epochs', '500 steps' (default: the steps of the gin files)",
    )
    sweep.add_argument("--seed", nargs="+", type=options.whole(), default=[0], help="seeds (default 0)")
    sweep.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="most bytes of training text (default: all of it)"
    )
    sweep.add_argument(
        "--validation_bytes",
        type=options.count_of_bytes(),
        default=1_000_000,
        help="most bytes of validation text (default %(default)s)",
    )
    sweep.add_argument("--out", required=True, help="folder of the sweep; started again, it goes on where it was")
    sweep.add_argument(
        "--mesh", type=options.mesh, help="sizes of the axes data,fsdp,tensor (default: all devices on data)"
    )
    sweep.add_argument("--dry_run", action="store_true", help="only say what would be trained")
    sweep.add_argument(
        "--launch",
        metavar="PREFIX",
        help="compress, then print one command for each run that is left, with this before it ({name} becomes the name "
        "of the run), instead of training; given again, runs that are trained by then are evaluated",
    )
    options.gin(sweep)
    options.devices(sweep)
