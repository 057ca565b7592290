"""Command `verify`: checks that a codec restores files, and that token stores are undamaged."""

import os

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError


def add_arguments(parser):
    parser.add_path(
        "paths", kind=paths.READ, nargs="+", help="files to encode and decode (- for standard input), or token stores"
    )
    options.add_codec(parser, required=False, help="codec directory, for files")


def run(arguments):
    broken = 0
    for path in arguments.paths:
        if os.path.isdir(path):
            _verify_store(path)
        elif not arguments.codec:
            raise InputError(
                f"{io.shown(path)} is a file and no codec was given. Give one with --codec DIR, or give the folder of "
                "a token store instead."
            )
        else:
            broken += not _survives(path, load_codec(arguments.codec))
    return 2 if broken else 0


def _verify_store(path):
    from compressed_lm.data.store import TokenStore

    store = TokenStore.open(path)
    store.verify()
    print(f"{path}: {len(store.manifest['shards'])} shards, {store.n_documents:,} documents, checksums correct.")


def _survives(path, codec) -> bool:
    """Prints and returns whether the codec restores a file byte for byte."""
    name, data = io.shown(path), io.read_bytes(path)
    ids = codec.encode(data)
    restored = codec.decode(ids)
    if restored == data:
        print(f"{name}: {len(data):,} bytes -> {len(ids):,} tokens of {codec.spec} -> the same {len(data):,} bytes.")
        return True
    differing = (i for i, (a, b) in enumerate(zip(data, restored, strict=False)) if a != b)
    first = next(differing, min(len(data), len(restored)))
    print(f"{name}: NOT lossless with {codec.spec}; the first difference is at byte {first:,} of {len(data):,}.")
    return False


COMMAND = Command(
    "verify",
    "encode and decode files and compare, or check a token store's shards",
    "compressed-lm verify book.txt --codec codecs/eiw16",
    add_arguments,
    run,
)
