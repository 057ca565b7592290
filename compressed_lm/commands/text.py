"""Verbs that work on text and tokens. Imports wait until their verb runs, so that `--help` is instant."""

import os

from compressed_lm import io
from compressed_lm.commands.common import load_codec, messages
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def build_codec(arguments):
    """Builds and saves a codec."""
    from compressed_lm import codecs
    from compressed_lm.data.job import take_bytes
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.pipelines import stages
    from compressed_lm.tracking.progress import progress

    with locks.held(arguments.out):
        spec = codecs.canonical_spec(arguments.codec)
        m1 = stages.load_m1(arguments.m1) if arguments.m1 else None
        name, options = codecs.parse_spec(spec)
        corpus = open_corpus(arguments.corpus, validation=arguments.validation)
        n_windows = 1 << int(options["b"]) if name == "eiw" else None
        with progress(f"build {spec}", n_windows, unit="windows" if n_windows else "") as bar:
            codec = codecs.create(
                spec,
                m1=m1,
                documents=lambda: take_bytes(corpus.documents("train"), arguments.max_bytes),
                progress=lambda n: bar.advance(n - bar.done),
            )
        codecs.save(codec, arguments.out)
    print(f"{codec.spec} is in {arguments.out}, fingerprint {codec.fingerprint[:12]}.")


def compile_(arguments):
    """Compiles a dictionary file."""
    from compressed_lm import codecs
    from compressed_lm.pipelines import refit, stages

    v = arguments.v or 1 << arguments.b
    spec = f"eiw(b={arguments.b},v={v},align={arguments.align},fill={arguments.fill})"
    if arguments.rounds and io.is_stream(arguments.out):
        raise InputError(f"--rounds keeps its rounds beside the file, and --out {arguments.out} is none; give a file.")
    with locks.held(arguments.out):
        if arguments.rounds:
            codec = refit.refit(spec, arguments.m1, rounds=arguments.rounds, out=arguments.out + ".rounds")
        else:
            codec = refit.compile_codec(spec, stages.load_m1(arguments.m1))
        size = codecs.save_dictionary(codec, arguments.out)
    print(
        f"{codec.spec} is in {arguments.out}, {size:,} bytes, fingerprint {codec.fingerprint[:12]}.",
        file=messages(arguments.out),
    )


def encode(arguments):
    """Encodes a file."""
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


def decode(arguments):
    """Restores an encoded file."""
    from compressed_lm.codecs import encoded_file

    name = io.shown(arguments.input)
    data = encoded_file.decode_file(io.read_bytes(arguments.input), load_codec(arguments.codec), name=name)
    io.write_atomic(arguments.output, data)
    print(f"{name} -> {arguments.output}: {len(data):,} bytes, checksum right.", file=messages(arguments.output))


def verify(arguments) -> int:
    """Checks that files survive a codec, and that stores are whole. Returns 2 if one does not."""
    from compressed_lm.data.store import TokenStore

    broken = 0
    for path in arguments.paths:
        name = io.shown(path)
        if os.path.isdir(path):
            store = TokenStore.open(path)
            store.verify()
            print(f"{path}: {len(store.manifest['shards'])} shards, {store.n_documents:,} documents, checksums right.")
            continue
        if not arguments.codec:
            raise InputError(
                f"{name} is a file and no codec was given to verify with. Give one by --codec DIR, or give a "
                "folder of a token store."
            )
        codec, data = load_codec(arguments.codec), io.read_bytes(path)
        ids = codec.encode(data)
        restored = codec.decode(ids)
        if restored == data:
            print(
                f"{name}: {len(data):,} bytes -> {len(ids):,} tokens of {codec.spec} -> the same {len(data):,} bytes."
            )
        else:
            broken += 1
            first = next(
                (i for i, (a, b) in enumerate(zip(data, restored, strict=False)) if a != b),
                min(len(data), len(restored)),
            )
            print(
                f"{name}: NOT lossless with {codec.spec}; the first difference is at byte {first:,} of {len(data):,}."
            )
    return 2 if broken else 0


def compress(arguments):
    """Runs the compression job."""
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


def inspect(arguments):
    """Shows a token store."""
    import rich

    from compressed_lm.data.inspect import inspect_store, render
    from compressed_lm.data.sources import open_corpus

    corpus = open_corpus(arguments.corpus, validation=arguments.validation) if arguments.corpus else None
    codec = load_codec(arguments.codec) if arguments.codec else None
    rich.print(render(inspect_store(arguments.store, codec=codec, corpus=corpus, n_documents=arguments.documents)))
