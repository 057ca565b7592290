"""Command `sweep`: trains and evaluates a grid of models on the same text."""

import functools
import sys

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command


def add_arguments(parser):
    from compressed_lm import codecs

    options.add_corpus(parser)
    parser.add_path(
        "--codec",
        kind=paths.READ,
        nargs="+",
        required=True,
        help="codecs: directories, dictionary files, names of shipped codecs "
        f"({', '.join(codecs.shipped())}), or specs to build: {', '.join(codecs.examples())}",
    )
    parser.add_path(
        "--m1", kind=paths.READ, help="folder of `train-m1`, or pretrained, to build codecs that need an M1"
    )
    parser.add_argument("--size", nargs="+", default=[], help="model sizes (default: the size in the gin files)")
    parser.add_argument(
        "--tokens",
        nargs="+",
        default=[],
        help="training lengths: 20M (tokens), 300MB (of text), '2 epochs', '500 steps' (default: the steps of the "
        "gin files)",
    )
    parser.add_argument("--seed", nargs="+", type=options.whole(), default=[0], help="seeds (default 0)")
    parser.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="most bytes of training text (default: all of it)"
    )
    parser.add_argument(
        "--validation_bytes",
        type=options.count_of_bytes(),
        default=1_000_000,
        help="most bytes of validation text (default %(default)s)",
    )
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="folder of the sweep; resumes if interrupted")
    options.add_mesh(parser)
    parser.add_argument("--dry_run", action="store_true", help="only print the runs")
    parser.add_argument(
        "--launch",
        metavar="PREFIX",
        help="compress the corpus and print one training command per remaining run, after this prefix ({name} becomes "
        "the name of the run), instead of training; repeat the command to evaluate the finished runs",
    )
    options.add_gin(parser)
    options.add_devices(parser)


def run(arguments):
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.pipelines import grid
    from compressed_lm.pipelines.m1 import load_m1
    from compressed_lm.pipelines.sweep import Sweep
    from compressed_lm.terminal import print_flush

    sources = grid.labelled(arguments.codec)
    cells = grid.grid(
        list(sources), sizes=arguments.size, tokens=arguments.tokens, seeds=arguments.seed, settings=arguments.set
    )
    # With --launch, standard output contains only commands.
    report = print_flush if arguments.launch is None else functools.partial(print, file=sys.stderr, flush=True)
    sweep = Sweep(
        arguments.out,
        cells,
        sources,
        corpus=open_corpus(arguments.corpus, validation=arguments.validation),
        m1=load_m1(arguments.m1) if arguments.m1 else None,
        gin_files=arguments.gin or arguments.gin_default,
        max_bytes=arguments.max_bytes,
        validation_bytes=arguments.validation_bytes,
        mesh_shape=arguments.mesh,
        report=report,
    )
    if arguments.dry_run:
        sweep.show()
    elif arguments.launch is not None:
        sweep.emit(arguments.launch)
    else:
        sweep.run()
    if sweep.failed:
        report(f"{len(sweep.failed)} of {len(cells)} runs failed: {', '.join(sweep.failed)}. See the lines above.")
    return 2 if sweep.failed else 0


COMMAND = Command(
    "sweep",
    "train and evaluate a grid of models on the same text: codec x size x tokens x seed",
    "compressed-lm sweep --gin recipes/modern.gin --codec bytes eiw16-en 'gzip(v=256)' --size 25m 113m "
    "--tokens 100M --seed 0 1 2 --out runs/sweep",
    add_arguments,
    run,
    writes=True,
)
