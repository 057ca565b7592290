"""`compressed-lm VERB`: parses, binds gin, calls one function."""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from compressed_lm.errors import InputError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CORPUS_HELP = (
    "source of documents: installed_docs (documentation of the installed packages), json:GLOB (C4-style JSON "
    "lines, plain or .gz), text:GLOB (a file a document), "
    "store:DIR (a token store of raw bytes), tfds:c4/en:3.1.0, seqio:TASK"
)
CODEC_HELP = "bytes, sentencepiece(v=4096), gzip(v=256), static_ac(v=256), ac(v=256), eiw(b=16,v=65536,align=word)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit status: 0, or 2 after an error that the message explains."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if getattr(arguments, "devices", None):
            from compressed_lm.training import use_cpu_devices

            use_cpu_devices(arguments.devices)
        return arguments.function(arguments) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"error: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}. Finished "
            "shards, checkpoints and files are untouched; run the same command again.",
            file=sys.stderr,
        )
    except ValueError as error:
        from compressed_lm.coding.range_coder import CorruptStream

        if not isinstance(error, CorruptStream):
            raise
        print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compressed-lm",
        description="Train language models over compressed text, and compare them in bits per byte. "
        "`compressed-lm VERB "
        "--help` explains a verb.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function: Callable, summary: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(function=function)
        return sub

    verb("doctor", _doctor, "print versions, devices and known problems of this installation", "compressed-lm doctor")

    demo = verb(
        "demo", _demo, "the whole job on real text, from corpus to report", "compressed-lm demo --out runs/demo"
    )
    _corpus(demo, default=None)
    demo.add_argument(
        "--out",
        default="runs/demo",
        help="folder of the run; started again, it goes on where it was (default %(default)s)",
    )
    _gin(demo, default=["runs/demo.gin"])
    _devices(demo, default=2)

    train_m1 = verb(
        "train-m1",
        _train_m1,
        "train the byte model that drives the coder, and turn it into exact integers",
        "compressed-lm train-m1 --out runs/m1 --steps 2000",
    )
    _corpus(train_m1)
    train_m1.add_argument("--out", required=True, help="folder of the run; m1.npz in it is the exact model")
    train_m1.add_argument("--max_bytes", type=int, help="most bytes of text to use")
    _training(train_m1)

    build = verb(
        "build-codec",
        _build_codec,
        "build a codec and save it as a directory",
        "compressed-lm build-codec 'eiw(b=16,v=65536)' --m1 runs/m1 --out codecs/eiw16",
    )
    build.add_argument("codec", help=CODEC_HELP)
    build.add_argument("--out", required=True, help="directory to write")
    build.add_argument("--m1", help="folder of `train-m1`, for ac and eiw")
    _corpus(build)
    build.add_argument(
        "--max_bytes", type=int, default=8_000_000, help="most bytes of text to learn from (default %(default)s)"
    )

    encode = verb("encode", _encode, "encode a file", "compressed-lm encode book.txt book.clm --codec codecs/eiw16")
    decode = verb(
        "decode",
        _decode,
        "restore an encoded file, or say exactly why not",
        "compressed-lm decode book.clm book.txt --codec codecs/eiw16",
    )
    for sub in (encode, decode):
        sub.add_argument("input", help="file to read")
        sub.add_argument("output", help="file to write")
        sub.add_argument("--codec", required=True, help="codec directory")

    verify = verb(
        "verify",
        _verify,
        "encode and decode files and compare, or check a token store's shards",
        "compressed-lm verify book.txt --codec codecs/eiw16",
    )
    verify.add_argument("paths", nargs="+", help="files to take through the codec and back, or folders of token stores")
    verify.add_argument("--codec", help="codec directory, for files")

    compress = verb(
        "compress",
        _compress,
        "turn documents into a token store, shard by shard, resumable",
        "compressed-lm compress --corpus 'json:c4/*.gz' --codec codecs/eiw16 --out stores/c4",
    )
    _corpus(compress)
    compress.add_argument("--split", default="train", help="split of the corpus (default %(default)s)")
    compress.add_argument("--codec", required=True, help="codec directory, or bytes")
    compress.add_argument("--out", required=True, help="folder of the store; started again, it keeps finished shards")
    compress.add_argument("--n_shards", type=int, default=4, help="shards of the store (default %(default)s)")
    compress.add_argument("--max_bytes", type=int, help="take documents until there are this many bytes")
    compress.add_argument(
        "--process_index", type=int, default=0, help="this process, of --process_count that share the shards"
    )
    compress.add_argument(
        "--process_count", type=int, default=1, help="processes that work on the same store (default %(default)s)"
    )
    _devices(compress)

    inspect = verb(
        "inspect",
        _inspect,
        "show a token store: manifest, counts, original beside decoded text",
        "compressed-lm inspect stores/c4 --codec codecs/eiw16",
    )
    inspect.add_argument("store", help="folder of a token store")
    inspect.add_argument("--codec", help="codec directory, to decode documents")
    inspect.add_argument("--corpus", help="the corpus it was made from, to show the originals")
    inspect.add_argument("--validation", help=argparse.SUPPRESS)
    inspect.add_argument("--documents", type=int, default=3, help="documents to show (default %(default)s)")

    train = verb(
        "train",
        _train,
        "train a model on a token store",
        "compressed-lm train --tokens stores/c4 --out runs/eiw --size micro --steps 1000",
    )
    train.add_argument("--tokens", required=True, help="folder of a token store")
    train.add_argument(
        "--out", required=True, help="folder of the run; started again, it goes on where it was, bit for bit"
    )
    train.add_argument("--validation_tokens", help="token store of validation documents, for a learning curve")
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events to OUT/tensorboard")
    train.add_argument(
        "--mesh", help="sizes of the axes data,fsdp,tensor, such as 4,2,1 (default: all devices on data)"
    )
    _training(train)

    evaluate = verb(
        "evaluate",
        _evaluate,
        "bits per byte and FLOPs per byte of a run, one row of the run table",
        "compressed-lm evaluate runs/eiw --codec codecs/eiw16 --tokens stores/val --train_tokens stores/c4",
    )
    evaluate.add_argument("run", help="folder of a training run")
    evaluate.add_argument("--codec", required=True, help="codec directory, or bytes")
    evaluate.add_argument("--tokens", required=True, help="token store of validation documents")
    evaluate.add_argument("--train_tokens", required=True, help="token store that the run was trained on")
    evaluate.add_argument("--table", help="run table (JSON lines) to append the row to")

    generate = verb(
        "generate",
        _generate,
        "sample text from a run, decoding as it goes",
        "compressed-lm generate runs/eiw --codec codecs/eiw16 --prompt 'The array'",
    )
    generate.add_argument("run", help="folder of a training run")
    generate.add_argument("--codec", required=True, help="codec directory, or bytes")
    generate.add_argument("--prompt", default="", help="text to continue")
    generate.add_argument("--n_tokens", type=int, default=200, help="most tokens to sample (default %(default)s)")
    generate.add_argument(
        "--temperature", type=float, default=0.8, help="0 takes the likeliest token (default %(default)s)"
    )
    generate.add_argument(
        "--top_k", type=int, default=0, help="sample among this many tokens; 0 for all (default %(default)s)"
    )
    generate.add_argument("--seed", type=int, default=0)

    report = verb(
        "report", _report, "write report.html and report.md from a folder's run table", "compressed-lm report runs/demo"
    )
    report.add_argument("run_dir", help="folder with runs.jsonl, such as runs/demo")
    return parser


def _corpus(parser, *, default: str | None = "installed_docs"):
    parser.add_argument("--corpus", default=default, help=CORPUS_HELP + " (default: installed_docs)")
    parser.add_argument(
        "--validation", help="source of the validation documents, where the corpus has no validation split of its own"
    )


def _gin(parser, *, default: Sequence[str] = ()):
    parser.add_argument(
        "--gin", action="append", help=f"gin file, may be given again{f' (default {default[0]})' if default else ''}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting over the gin files, such as train.steps=500; may be given again",
    )
    parser.set_defaults(gin_default=default)


def _training(parser):
    _gin(parser)
    parser.add_argument(
        "--size", help="named model size: nano, micro, mini, 3m, 25m, 113m, 403m, 2b (same as --set model.size=...)"
    )
    parser.add_argument("--steps", type=int, help="updates (same as --set train.steps=...)")
    parser.add_argument("--seed", type=int, help="seed (same as --set train.seed=...)")
    _devices(parser)


def _devices(parser, default: int | None = None):
    parser.add_argument(
        "--devices",
        type=int,
        default=default,
        help="virtual devices to split a CPU into; accelerators are found by themselves"
        + (f" (default {default})" if default else ""),
    )


def _configure(arguments) -> str:
    from compressed_lm import configuration

    bindings = list(arguments.set)
    for name, target in (("size", "model.size"), ("steps", "train.steps"), ("seed", "train.seed")):
        if getattr(arguments, name, None) is not None:
            bindings.append(f"{target}={getattr(arguments, name)}")
    return configuration.load(arguments.gin or arguments.gin_default, bindings)


def _load_codec(directory: str):
    from compressed_lm import codecs

    return codecs.Bytes() if directory == "bytes" else codecs.load(directory)


def _doctor(arguments) -> int:
    from compressed_lm import doctor

    return doctor.run()


def _demo(arguments):
    from compressed_lm import demo

    bindings = [*arguments.set]
    bindings += [f"demo.{name}={value}" for name in ("corpus", "validation") if (value := getattr(arguments, name))]
    demo.run(arguments.out, gin_files=arguments.gin or arguments.gin_default, bindings=bindings)


def _train_m1(arguments):
    from compressed_lm import codecs, configuration, stages
    from compressed_lm.corpora.job import compress
    from compressed_lm.corpora.sources import open_corpus
    from compressed_lm.models import model_vocab_size
    from compressed_lm.training import train

    resolved = _configure(arguments)
    out = pathlib.Path(arguments.out)
    model, config = configuration.model(model_vocab_size(256)), configuration.train()
    from compressed_lm.models.exact import check_exactable

    check_exactable(model, config.seq_len)  # before hours of training, not after
    store = compress(
        open_corpus(arguments.corpus, validation=arguments.validation),
        "train",
        codecs.Bytes(),
        out / "tokens",
        max_bytes=arguments.max_bytes,
    )
    (out / "config.gin").write_text(resolved, encoding="utf-8")
    result = train(config, model, store, out=out)
    m1 = stages.export_m1(out, store)
    print(
        f"M1 is {out / stages.M1_FILE}, hash {m1.hash[:12]}; last training loss "
        f"{result.loss_nats_per_token / 0.6931471805599453:.3f} bits per byte."
    )


def _build_codec(arguments):
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


def _encode(arguments):
    from compressed_lm.codecs import files

    data = pathlib.Path(arguments.input).read_bytes()
    codec = _load_codec(arguments.codec)
    content = files.encode_file(data, codec)
    _write(arguments.output, content)
    print(
        f"{arguments.input}: {len(data):,} bytes -> {arguments.output}: {len(content):,} bytes with "
        f"{codec.spec} ({8 * len(content) / max(len(data), 1):.3f} bits per byte)."
    )


def _decode(arguments):
    from compressed_lm.codecs import files

    data = files.decode_file(
        pathlib.Path(arguments.input).read_bytes(), _load_codec(arguments.codec), name=arguments.input
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


def _verify(arguments) -> int:
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
        codec, data = _load_codec(arguments.codec), path.read_bytes()
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


def _compress(arguments):
    from compressed_lm.corpora.job import compress
    from compressed_lm.corpora.sources import open_corpus

    store = compress(
        open_corpus(arguments.corpus, validation=arguments.validation),
        arguments.split,
        _load_codec(arguments.codec),
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


def _inspect(arguments):
    import rich

    from compressed_lm.corpora.inspect import inspect_store, render
    from compressed_lm.corpora.sources import open_corpus

    corpus = open_corpus(arguments.corpus, validation=arguments.validation) if arguments.corpus else None
    codec = _load_codec(arguments.codec) if arguments.codec else None
    rich.print(render(inspect_store(arguments.store, codec=codec, corpus=corpus, n_documents=arguments.documents)))


def _train(arguments):
    import math

    from compressed_lm import configuration
    from compressed_lm.corpora.store import TokenStore
    from compressed_lm.evaluation import BitsPerByte, predict_fn
    from compressed_lm.models import model_vocab_size
    from compressed_lm.tracking import TensorBoard
    from compressed_lm.training import train

    resolved = _configure(arguments)
    store = TokenStore.open(arguments.tokens)
    config, model = configuration.train(), configuration.model(model_vocab_size(store.vocab_size))
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.gin").write_text(resolved, encoding="utf-8")
    mesh = None
    if arguments.mesh:
        try:
            mesh = tuple(int(size) for size in arguments.mesh.split(","))
        except ValueError:
            raise InputError(
                f"--mesh {arguments.mesh} was given; three whole numbers for data,fsdp,tensor were expected, "
                "such as 4,2,1."
            ) from None
    eval_fn = None
    if arguments.validation_tokens:
        validation = TokenStore.open(arguments.validation_tokens, fingerprint=store.codec_fingerprint)
        evaluator = BitsPerByte(
            predict_fn(model, store.eod_id),
            store=validation,
            seq_len=config.seq_len,
            batch_size=config.batch_size,
            mesh_shape=mesh,
        )
        eval_fn = lambda params, step: dict(evaluator.run(params))  # noqa: E731
    trackers = [TensorBoard(out / "tensorboard")] if arguments.tensorboard else []
    result = train(config, model, store, out=out, mesh_shape=mesh, trackers=trackers, eval_fn=eval_fn)
    per_byte = (store.n_tokens + store.n_documents) / max(store.n_bytes, 1) / math.log(2)
    print(
        f"{out}: step {result.step}, {result.n_params:,} parameters, {result.n_tokens:,} tokens; last "
        f"training loss {result.loss_nats_per_token!r} nats per token "
        f"({result.loss_nats_per_token * per_byte:.3f} bits per byte)."
    )


def _evaluate(arguments):
    from compressed_lm import scaling, stages
    from compressed_lm.corpora.store import TokenStore

    row = stages.evaluate_run(
        arguments.run,
        codec=_load_codec(arguments.codec),
        store=TokenStore.open(arguments.tokens),
        train_store=TokenStore.open(arguments.train_tokens),
    )
    for name in (
        "bits_per_byte",
        "loss_nats_per_token",
        "bytes_per_token",
        "flops_per_byte",
        "flops_per_byte_softmax",
        "flops_per_byte_runtime",
        "n_nonembed",
        "step",
    ):
        print(f"{name:24s} {row[name]:,.6g}" if isinstance(row[name], float) else f"{name:24s} {row[name]:,}")
    if arguments.table:
        scaling.append_row(arguments.table, row)


def _generate(arguments):
    from compressed_lm.evaluation import generate
    from compressed_lm.training import load_run

    run, codec = load_run(arguments.run), _load_codec(arguments.codec)
    if run.codec_fingerprint != codec.fingerprint:
        raise InputError(
            f"The run {arguments.run} was trained on {run.codec_spec}, fingerprint "
            f"{run.codec_fingerprint[:12]}; the codec given is {codec.spec}, fingerprint {codec.fingerprint[:12]}. "
            "Give the codec that made its tokens."
        )
    pieces = generate(
        run.params,
        run.model_config,
        codec,
        prompt=arguments.prompt.encode(),
        n_tokens=arguments.n_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _report(arguments):
    from compressed_lm.evaluation.report import report

    paths = report(arguments.run_dir)
    print(f"{paths.html} and {paths.markdown} are written.")
