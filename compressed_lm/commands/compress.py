"""Command `compress`: compresses documents into a token store."""

import os
import shlex

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError

ENGINES = ("local", "ray", "beam")


def add_arguments(parser):
    options.add_corpus(parser)
    parser.add_argument("--split", default="train", help="split of the corpus (default %(default)s)")
    options.add_codec(parser)
    parser.add_path(
        "--out",
        kind=paths.FOLDER,
        required=True,
        help="folder of the store, also gs://... or s3://...; if it exists, what is finished is kept",
    )
    parser.add_argument(
        "--shard_bytes",
        type=options.count_of_bytes(),
        help="size of the ids after which a shard ends (default 268435456)",
    )
    parser.add_argument(
        "--n_shards", type=options.whole(1, 100_000), help="number of shards of equal size, in place of --shard_bytes"
    )
    parser.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="read documents up to this many bytes (default: all)"
    )
    parser.add_argument(
        "--workers",
        type=options.whole(1, 4096),
        help="processes on this machine (default: one for each core; 1 for codecs that run M1, which uses all of them)",
    )
    parser.add_argument(
        "--rows_per_device",
        type=options.whole(1, 1 << 16),
        help="texts that M1 reads at the same time on each GPU or TPU (default 256; on CPU M1 chooses)",
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="what encodes the units of work (default %(default)s)"
    )
    parser.add_argument(
        "--ray_address",
        default=None,
        help="address of the Ray cluster: auto, ray://HOST:10001 or HOST:6379 (default: start one on this machine)",
    )
    parser.add_argument(
        "--beam_options",
        type=shlex.split,
        help="options of the Apache Beam pipeline in one string, such as '--runner=FlinkRunner --parallelism=64'; "
        "default: this machine, with --workers processes",
    )
    parser.add_argument(
        "--process_index",
        type=options.whole(),
        help="number of this process among --process_count; by default both come from the launcher (Slurm, Open MPI, "
        "SkyPilot, TPU, the scripts in launch)",
    )
    parser.add_argument(
        "--process_count", type=options.whole(1), help="processes that share the work, on any machines (default 1)"
    )
    parser.add_argument(
        "--dry_run",
        type=options.real(low=1),
        nargs="?",
        const=True,
        metavar="BYTES",
        help="write nothing: print documents, tokens, shards, hours and memory, estimated from a sample; BYTES is the "
        "size of the whole text, if the corpus at hand is only a sample of it",
    )
    options.add_devices(parser)


def run(arguments):
    from compressed_lm.data import job
    from compressed_lm.data.sources import open_corpus

    _check_engine(arguments)
    corpus = open_corpus(arguments.corpus, validation=arguments.validation)
    codec = load_codec(arguments.codec)
    if arguments.rows_per_device is not None:
        from compressed_lm.codecs import local_devices

        local_devices.use_rows_per_device(arguments.rows_per_device)
    index, count = _numbering(arguments)
    workers = arguments.workers or (1 if codec.flops_per_byte or corpus.single_pass else _n_cores())
    if corpus.single_pass and (max(workers, count) > 1 or arguments.engine != "local" or arguments.dry_run is not None):
        raise InputError(
            f"The corpus {corpus.spec} can be read only once and by one process; it was given with --workers, "
            "--process_count, --engine or --dry_run. Leave these out, or store its documents in a file first."
        )
    sharding = {"n_shards": arguments.n_shards, "max_bytes": arguments.max_bytes}
    sharding["shard_bytes"] = arguments.shard_bytes or job.SHARD_BYTES
    if arguments.n_shards and arguments.shard_bytes:
        raise InputError("--n_shards and --shard_bytes were given; both determine the shards. Give one of them.")
    if arguments.dry_run is not None:
        _dry_run(arguments, corpus, codec, workers=workers * count, **sharding)
        return
    store = job.compress(
        corpus,
        arguments.split,
        codec,
        arguments.out,
        engine=_engine(arguments, workers),
        process_index=index,
        process_count=count,
        **sharding,
    )
    if store is None:
        print(
            f"The units of process {index} are finished; the process that finishes last writes the shards and the "
            f"manifest of {arguments.out}."
        )
        return
    print(
        f"{arguments.out}: {store.n_documents:,} documents, {store.n_bytes:,} bytes, {store.n_tokens:,} tokens of "
        f"{store.codec_spec} ({store.n_bytes / max(store.n_tokens, 1):.3f} bytes per token), "
        f"{len(store.manifest['shards'])} shards."
    )
    _show_work(codec, store)
    for name, share in store.shares().items():
        print(f"{share:8.3%} of the bytes: {name}")


def _show_work(codec, store):
    """Prints how well the devices of this process were used by a codec that runs M1."""
    from compressed_lm.codecs.m1 import runs_on_host

    if not codec.flops_per_byte or runs_on_host():
        return
    from compressed_lm.codecs import local_devices

    work = local_devices.work()
    if work.steps:
        print(
            f"M1 on {local_devices.block_rows():,} rows: {work.steps:,} sequential steps, "
            f"{store.n_bytes / work.steps:,.1f} bytes a step, {work.padding_share:.1%} padding."
        )


def _n_cores():
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_engine(arguments):
    for option, engine in (("ray_address", "ray"), ("beam_options", "beam")):
        if getattr(arguments, option) is not None and arguments.engine != engine:
            raise InputError(
                f"--{option} was given with --engine {arguments.engine}; it is for --engine {engine}. Give both or "
                "neither."
            )


def _numbering(arguments):
    """Returns number and count of this process: those given, else those of the launcher."""
    from compressed_lm.distributed import numbering

    given = arguments.process_index, arguments.process_count
    if given == (None, None) and arguments.engine == "local":
        found = numbering.detect(os.environ)
        if found.count > 1:
            print(f"Process {found.index} of {found.count} ({found.launcher}).", flush=True)
        return found.index, found.count
    if arguments.engine != "local" and given != (None, None):
        raise InputError(
            f"--engine {arguments.engine} was given with --process_index or --process_count; the engine divides the "
            "work itself. Give one of them."
        )
    return arguments.process_index or 0, arguments.process_count or 1


def _engine(arguments, workers):
    if arguments.engine == "local":
        from compressed_lm.data.engines.local import Local

        return Local(workers)
    if arguments.engine == "beam":
        from compressed_lm.data.engines.beam import Beam

        return Beam(arguments.beam_options or (), workers=workers)
    try:
        from compressed_lm.data.engines.ray import Ray
    except ImportError as error:
        raise InputError(
            f"--engine ray needs Ray, which could not be imported ({error}). Install it with "
            "`pip install 'compressed_lm[ray]'`."
        ) from error
    return Ray(address=arguments.ray_address, workers=arguments.workers)


def _dry_run(arguments, corpus, codec, **options):
    from compressed_lm.commands.common import show_table
    from compressed_lm.data.estimate import estimate, table

    slots = 1
    if codec.flops_per_byte:
        from compressed_lm.codecs.m1 import rows_together

        slots = rows_together()
    size = None if arguments.dry_run is True else int(arguments.dry_run)
    show_table(table(estimate(corpus, arguments.split, codec, slots=slots, corpus_bytes=size, **options)))


COMMAND = Command(
    "compress",
    "compress documents into a token store, on one machine or many, resumable",
    "compressed-lm compress --corpus 'json:c4/*.gz' --codec codecs/eiw16 --out stores/c4",
    add_arguments,
    run,
    writes=True,
)
