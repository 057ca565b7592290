"""Command `demo`: runs the whole pipeline on real text, from corpus to report."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command


def add_arguments(parser):
    options.add_corpus(parser, default=None)
    parser.add_path(
        "--out",
        kind=paths.FOLDER,
        default="runs/demo",
        help="folder of the run; resumes if interrupted (default %(default)s)",
    )
    parser.add_argument(
        "--m1", choices=("train", "pretrained"), help="train M1, or use the pretrained one of the package"
    )
    options.add_gin(parser, default=["runs/demo.gin"])
    options.add_devices(parser, default=2)


def run(arguments):
    from compressed_lm.pipelines import demo

    given = {name: getattr(arguments, name) for name in ("corpus", "validation", "m1")}
    bindings = [*arguments.set, *(f"demo.{name}={value}" for name, value in given.items() if value)]
    demo.run(arguments.out, gin_files=arguments.gin or arguments.gin_default, bindings=bindings)


COMMAND = Command(
    "demo",
    "run the whole pipeline on real text, from corpus to report",
    "compressed-lm demo --out runs/demo",
    add_arguments,
    run,
    writes=True,
)
