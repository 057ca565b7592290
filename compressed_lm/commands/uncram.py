"""Command `uncram`: prints the text of a crammed file."""

import sys

from compressed_lm.commands import cram_options, paths
from compressed_lm.commands.command import Command


def add_arguments(parser):
    parser.add_path("file", kind=paths.READ, help="file written by cram")
    cram_options.add_model(parser)


def run(arguments):
    from compressed_lm.cramming import CrammedText

    crammed = CrammedText.load(arguments.file)
    model, codec, _ = cram_options.model(arguments)
    sys.stdout.buffer.write(codec.decode(crammed.write(model)))
    sys.stdout.buffer.flush()


COMMAND = Command(
    "uncram",
    "print the text of a crammed file; refuses any model except the one it was crammed for",
    "compressed-lm uncram note.clt --model runs/eiw",
    add_arguments,
    run,
)
