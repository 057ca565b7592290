"""Command `encode`: encodes a file as ids of a codec, with a checksum."""

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec, messages


def add_arguments(parser):
    parser.add_path("input", kind=paths.READ, help="file to read, or - for standard input")
    parser.add_path("output", kind=paths.FILE, help="file to write, or - for standard output")
    options.add_codec(parser)


def run(arguments):
    from compressed_lm.codecs import encoded_file

    data = io.read_bytes(arguments.input)
    codec = load_codec(arguments.codec)
    content = encoded_file.encode_file(data, codec)
    io.write_atomic(arguments.output, content)
    print(
        f"{io.shown(arguments.input)}: {len(data):,} bytes -> {arguments.output}: {len(content):,} bytes with "
        f"{codec.spec} ({8 * len(content) / max(len(data), 1):.3f} bits per byte).",
        file=messages(arguments.output),
    )


COMMAND = Command(
    "encode",
    "encode a file",
    "compressed-lm encode book.txt book.clm --codec codecs/eiw16",
    add_arguments,
    run,
)
