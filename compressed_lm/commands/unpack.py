"""`compressed-lm unpack`: the run in a packed file, as a folder."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec


def add_arguments(parser):
    parser.add_path("file", kind=paths.READ, help="file that pack wrote")
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="new folder")
    options.add_codec(
        parser, required=False, help="the run's codec directory, to keep a copy in OUT/codec, where export finds it"
    )


def run(arguments):
    from compressed_lm.post_training.entropy_code import unpack_run

    codec = load_codec(arguments.codec) if arguments.codec else None
    unpack_run(arguments.file, out=arguments.out, codec=codec)
    print(f"{arguments.out}: the quantised weights in float32; evaluate and generate take it like any run.")


COMMAND = Command(
    "unpack",
    "restore a packed file as a run, which evaluate and generate take",
    "compressed-lm unpack runs/eiw.clb --out runs/eiw-unpacked",
    add_arguments,
    run,
    writes=True,
)
