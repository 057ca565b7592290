"""Command `decode`: restores an encoded file."""

from compressed_lm import io
from compressed_lm.commands import encode
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec, messages


def run(arguments):
    from compressed_lm.codecs import encoded_file

    name = io.shown(arguments.input)
    data = encoded_file.decode_file(io.read_bytes(arguments.input), load_codec(arguments.codec), name=name)
    io.write_atomic(arguments.output, data)
    print(f"{name} -> {arguments.output}: {len(data):,} bytes, checksum correct.", file=messages(arguments.output))


COMMAND = Command(
    "decode",
    "restore an encoded file, or report why it cannot be restored",
    "compressed-lm decode book.clm book.txt --codec codecs/eiw16",
    encode.add_arguments,
    run,
)
