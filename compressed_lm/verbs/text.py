"""Verbs that work on text and tokens. Imports wait until their verb runs, so that `--help` is instant."""

import pathlib

from compressed_lm.errors import InputError
from compressed_lm.verbs.common import load_codec


def build_codec(arguments):
    """Builds and saves a codec."""
    from compressed_lm import codecs, stages
    from compressed_lm.corpora.job import take_bytes
    from compressed_lm.corpora.sources import open_corpus
    from compressed_lm.tracking.progress import progress

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
    from compressed_lm import codecs, compilation, stages

    v = arguments.v or 1 << arguments.b
    spec = f"eiw(b={arguments.b},v={v},align={arguments.align},fill={arguments.fill})"
    if arguments.rounds:
        codec = compilation.refit(spec, arguments.m1, rounds=arguments.rounds, out=arguments.out + ".rounds")
    else:
        codec = compilation.compile_codec(spec, stages.load_m1(arguments.m1))
    codecs.save_dictionary(codec, arguments.out)
    size = pathlib.Path(arguments.out).stat().st_size
    print(f"{codec.spec} is in {arguments.out}, {size:,} bytes, fingerprint {codec.fingerprint[:12]}.")


def encode(arguments):
    """Encodes a file."""
    from compressed_lm.codecs import files

    data = pathlib.Path(arguments.input).read_bytes()
    codec = load_codec(arguments.codec)
    content = files.encode_file(data, codec)
    _write(arguments.output, content)
    print(
        f"{arguments.input}: {len(data):,} bytes -> {arguments.output}: {len(content):,} bytes with "
        f"{codec.spec} ({8 * len(content) / max(len(data), 1):.3f} bits per byte)."
    )


def decode(arguments):
    """Restores an encoded file."""
    from compressed_lm.codecs import files

    data = files.decode_file(
        pathlib.Path(arguments.input).read_bytes(), load_codec(arguments.codec), name=arguments.input
    )
    _write(arguments.output, data)
    print(f"{arguments.input} -> {arguments.output}: {len(data):,} bytes, checksum right.")


def _write(path: str, content: bytes):
    temporary = pathlib.Path(path + ".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def verify(arguments) -> int:
    """Checks that files survive a codec, and that stores are whole. Returns 2 if one does not."""
    from compressed_lm.corpora.store import TokenStore

    broken = 0
    for path in map(pathlib.Path, arguments.paths):
        if path.is_dir():
            store = TokenStore.open(path)
            store.verify()
            print(f"{path}: {len(store.manifest['shards'])} shards, {store.n_documents:,} documents, checksums right.")
            continue
        if not arguments.codec:
            raise InputError(
                f"{path} is a file and no codec was given to verify with. Give one by --codec DIR, or give a "
                "folder of a token store."
            )
        codec, data = load_codec(arguments.codec), path.read_bytes()
        ids = codec.encode(data)
        restored = codec.decode(ids)
        if restored == data:
            print(
                f"{path}: {len(data):,} bytes -> {len(ids):,} tokens of {codec.spec} -> the same {len(data):,} bytes."
            )
        else:
            broken += 1
            first = next(
                (i for i, (a, b) in enumerate(zip(data, restored, strict=False)) if a != b),
                min(len(data), len(restored)),
            )
            print(
                f"{path}: NOT lossless with {codec.spec}; the first difference is at byte {first:,} of {len(data):,}."
            )
    return 2 if broken else 0


def compress(arguments):
    """Runs the compression job."""
    from compressed_lm.corpora import job
    from compressed_lm.corpora.sources import open_corpus

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

    from compressed_lm.corpora.inspect import inspect_store, render
    from compressed_lm.corpora.sources import open_corpus

    corpus = open_corpus(arguments.corpus, validation=arguments.validation) if arguments.corpus else None
    codec = load_codec(arguments.codec) if arguments.codec else None
    rich.print(render(inspect_store(arguments.store, codec=codec, corpus=corpus, n_documents=arguments.documents)))
