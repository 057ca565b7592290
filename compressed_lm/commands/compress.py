"""Command `compress`: compresses documents into a token store."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec


def add_arguments(parser):
    options.add_corpus(parser)
    parser.add_argument("--split", default="train", help="split of the corpus (default %(default)s)")
    options.add_codec(parser)
    parser.add_path(
        "--out", kind=paths.FOLDER, required=True, help="folder of the store; if it exists, finished shards are kept"
    )
    parser.add_argument(
        "--n_shards", type=options.whole(1, 100_000), default=4, help="number of shards (default %(default)s)"
    )
    parser.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="read documents up to this many bytes (default: all)"
    )
    parser.add_argument(
        "--process_index",
        type=options.whole(),
        default=0,
        help="index of this process among the --process_count processes (default %(default)s)",
    )
    parser.add_argument(
        "--process_count",
        type=options.whole(1),
        default=1,
        help="number of processes that share the shards of the store (default %(default)s)",
    )
    options.add_devices(parser)


def run(arguments):
    from compressed_lm.data import job
    from compressed_lm.data.sources import open_corpus

    store = job.compress(
        open_corpus(arguments.corpus, validation=arguments.validation),
        arguments.split,
        load_codec(arguments.codec),
        arguments.out,
        n_shards=arguments.n_shards,
        max_bytes=arguments.max_bytes,
        process_index=arguments.process_index,
        process_count=arguments.process_count,
    )
    if store is None:
        print(
            f"The shards of process {arguments.process_index} are finished; the process that finishes last "
            f"writes the manifest of {arguments.out}."
        )
    else:
        print(
            f"{arguments.out}: {store.n_documents:,} documents, {store.n_bytes:,} bytes, {store.n_tokens:,} "
            f"tokens of {store.codec_spec} ({store.n_bytes / max(store.n_tokens, 1):.3f} bytes per token)."
        )


COMMAND = Command(
    "compress",
    "compress documents into a token store, shard by shard, resumable",
    "compressed-lm compress --corpus 'json:c4/*.gz' --codec codecs/eiw16 --out stores/c4",
    add_arguments,
    run,
    writes=True,
)
