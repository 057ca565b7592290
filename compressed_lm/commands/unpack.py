"""Command `unpack`: restores a packed file as the folder of a run."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec


def add_arguments(parser):
    parser.add_path("file", kind=paths.READ, help="file written by pack")
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="new folder")
    options.add_codec(
        parser,
        required=False,
        help="codec directory of the run, copied to OUT/codec (default: the one in the file, if any)",
    )


def run(arguments):
    from compressed_lm.post_training.entropy_code import unpack_run

    codec = load_codec(arguments.codec) if arguments.codec else None
    unpack_run(arguments.file, out=arguments.out, codec=codec)
    print(f"{arguments.out}: the quantised weights in float32; evaluate and generate accept it like any run.")


COMMAND = Command(
    "unpack",
    "restore a packed file as a run for evaluate and generate",
    "compressed-lm unpack runs/eiw.clb --out runs/eiw-unpacked",
    add_arguments,
    run,
    writes=True,
)
