"""Command `inspect`: shows the contents of a token store."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError


def add_arguments(parser):
    parser.add_path("store", kind=paths.READ, help="folder of a token store")
    options.add_codec(parser, required=False, help="codec directory, to decode documents")
    options.add_corpus(parser, default=None, used="corpus of the store, to show the original documents")
    parser.add_argument("--documents", type=options.whole(), default=3, help="documents to show (default %(default)s)")


def run(arguments):
    import rich

    from compressed_lm.data.inspect import inspect_store, render
    from compressed_lm.data.sources import open_corpus

    if arguments.validation and not arguments.corpus:
        raise InputError(f"--validation {arguments.validation} was given without --corpus; give both or neither.")
    corpus = open_corpus(arguments.corpus, validation=arguments.validation) if arguments.corpus else None
    codec = load_codec(arguments.codec) if arguments.codec else None
    rich.print(render(inspect_store(arguments.store, codec=codec, corpus=corpus, n_documents=arguments.documents)))


COMMAND = Command(
    "inspect",
    "show a token store: manifest, counts, original and decoded text",
    "compressed-lm inspect stores/c4 --codec codecs/eiw16",
    add_arguments,
    run,
)
