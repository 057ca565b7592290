"""What each verb of `compressed-lm` calls. Imports wait until their verb runs, so that `--help` is instant."""

import contextlib
import functools
import math
import os
import pathlib
import sys

from compressed_lm.errors import InputError


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


def doctor(arguments) -> int:
    """Prints the state of the installation."""
    from compressed_lm import doctor as diagnosis

    return diagnosis.run()


def demo(arguments):
    """Runs the whole job."""
    from compressed_lm import demo as whole_job

    bindings = [*arguments.set]
    given = {name: getattr(arguments, name) for name in ("corpus", "validation", "m1")}
    bindings += [f"demo.{name}={value}" for name, value in given.items() if value]
    whole_job.run(arguments.out, gin_files=arguments.gin or arguments.gin_default, bindings=bindings)


def train_m1(arguments):
    """Trains a byte model and exports its exact form."""
    from compressed_lm import codecs, configuration, stages
    from compressed_lm.corpora import job
    from compressed_lm.corpora.sources import open_corpus
    from compressed_lm.models import model_vocab_size
    from compressed_lm.models.exact import check_exactable
    from compressed_lm.training import train

    resolved = _configure(arguments)
    out = pathlib.Path(arguments.out)
    model, config = configuration.model(model_vocab_size(256)), configuration.train()
    check_exactable(model, config.seq_len)  # before hours of training, not after
    store = job.compress(
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
        f"{result.loss_nats_per_token / math.log(2):.3f} bits per byte."
    )


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
    codec = _load_codec(arguments.codec)
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


def compress(arguments):
    """Runs the compression job."""
    from compressed_lm.corpora import job
    from compressed_lm.corpora.sources import open_corpus

    store = job.compress(
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


def inspect(arguments):
    """Shows a token store."""
    import rich

    from compressed_lm.corpora.inspect import inspect_store, render
    from compressed_lm.corpora.sources import open_corpus

    corpus = open_corpus(arguments.corpus, validation=arguments.validation) if arguments.corpus else None
    codec = _load_codec(arguments.codec) if arguments.codec else None
    rich.print(render(inspect_store(arguments.store, codec=codec, corpus=corpus, n_documents=arguments.documents)))


def train(arguments):
    """Trains a model, or tells what training it would need."""
    if arguments.dry_run or arguments.tpu:
        return _dry_run(arguments)
    if not arguments.tokens or not arguments.out:
        raise InputError("train was given no --tokens or no --out: both are needed, but for a --dry_run.")
    from compressed_lm.training import distributed

    joined = distributed.initialize(arguments.distributed)
    if joined:
        print(joined, flush=True)

    import jax

    from compressed_lm import configuration
    from compressed_lm.corpora.store import TokenStore
    from compressed_lm.evaluation import BitsPerByte, predict_fn
    from compressed_lm.models import model_vocab_size
    from compressed_lm.tracking import TensorBoard, Wandb
    from compressed_lm.training import make_mesh, train
    from compressed_lm.training.checkpoints import folder
    from compressed_lm.training.durations import rates

    resolved = _configure(arguments)
    store = TokenStore.open(arguments.tokens)
    configuration.data().check(store)
    config, model = configuration.train(), configuration.model(model_vocab_size(store.vocab_size))
    out, mesh = folder(arguments.out), _mesh_shape(arguments)
    table = distributed.startup_table(make_mesh(mesh))
    if jax.process_index() == 0:
        print(table, flush=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.gin").write_text(resolved)
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
    trackers = []
    if jax.process_index() == 0:
        try:
            trackers += [TensorBoard(out / "tensorboard")] if arguments.tensorboard else []
            trackers += [Wandb(out, project=arguments.wandb)] if arguments.wandb else []
        except ValueError as error:  # the package is not installed
            raise InputError(str(error)) from None
    with contextlib.ExitStack() as stack:
        for tracker in trackers:
            stack.callback(tracker.close)
        result = train(
            config,
            model,
            store,
            out=out,
            mesh_shape=mesh,
            trackers=trackers,
            eval_fn=eval_fn,
            # Unless the user chose a place: a restart then begins at once.
            compilation_cache=None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else out / "compiled",
            hang_seconds=arguments.hang_seconds,
            profile_steps=_pair(arguments.profile, "--profile") if arguments.profile else None,
            debug=arguments.debug,
        )
    per_byte = 1 / rates(store)["bytes_per_token"] / math.log(2)
    if jax.process_index() == 0:
        print(
            f"{out}: step {result.step}, {result.n_params:,} parameters, {result.n_tokens:,} tokens; last "
            f"training loss {result.loss_nats_per_token!r} nats per token "
            f"({result.loss_nats_per_token * per_byte:.3f} bits per byte)."
        )


def _dry_run(arguments):
    """Prints what a run would need."""
    devices = None
    if arguments.tpu:
        from compressed_lm.training.topologies import tpu_devices

        devices = tpu_devices(arguments.tpu)

    from compressed_lm import configuration
    from compressed_lm.corpora.store import TokenStore
    from compressed_lm.models import model_vocab_size
    from compressed_lm.training import make_mesh
    from compressed_lm.training.dry_run import dry_run
    from compressed_lm.training.dry_run_report import show
    from compressed_lm.training.durations import rates

    _configure(arguments)
    data = configuration.data()
    if arguments.tokens:
        store = TokenStore.open(arguments.tokens)
        data.check(store)
        known, vocab_size = rates(store), store.vocab_size
    else:
        known, vocab_size = {"bytes_per_token": data.bytes_per_token or None}, data.vocab_size
    if vocab_size is None:
        raise InputError(
            "A dry run needs a vocabulary and was given none. Give a token store (--tokens), a configuration that "
            "names its codec (--gin runs/paper_bytes.gin), or --set 'data.codec=eiw(b=16,v=65536)'."
        )
    model = configuration.model(model_vocab_size(vocab_size))
    mesh = make_mesh(_mesh_shape(arguments), devices=devices)
    show(dry_run(configuration.train(), model, eod_id=vocab_size, mesh=mesh, **known))


def _mesh_shape(arguments):
    """Returns the sizes of the mesh axes, or None."""
    if not arguments.mesh:
        return None
    try:
        return tuple(int(size) for size in arguments.mesh.split(","))
    except ValueError:
        raise InputError(
            f"--mesh {arguments.mesh} was given; three whole numbers for data,fsdp,tensor were expected, such as 4,2,1."
        ) from None


def _pair(text, option):
    """Returns two whole numbers written as "100,110"."""
    try:
        first, last = map(int, text.split(","))
        return first, last
    except ValueError:
        raise InputError(
            f"{option} {text} was given; the first and the last step were expected, such as 100,110."
        ) from None


def sweep(arguments) -> int:
    """Runs a grid. Returns 2 if a run of it failed."""
    from compressed_lm import grid, stages
    from compressed_lm.corpora.sources import open_corpus
    from compressed_lm.sweep import Sweep

    sources = grid.labelled(arguments.codec)
    cells = grid.grid(
        list(sources), sizes=arguments.size, tokens=arguments.tokens, seeds=arguments.seed, settings=arguments.set
    )
    # Commands have standard output for themselves.
    say = stages.say_now if arguments.launch is None else functools.partial(print, file=sys.stderr, flush=True)
    sweep = Sweep(
        arguments.out,
        cells,
        sources,
        corpus=open_corpus(arguments.corpus, validation=arguments.validation),
        m1=stages.load_m1(arguments.m1) if arguments.m1 else None,
        gin_files=arguments.gin or arguments.gin_default,
        max_bytes=arguments.max_bytes,
        validation_bytes=arguments.validation_bytes,
        mesh_shape=_mesh_shape(arguments),
        say=say,
    )
    if arguments.dry_run:
        sweep.show()
    elif arguments.launch is not None:
        sweep.emit(arguments.launch)
    else:
        sweep.run()
    if sweep.failed:
        say(f"{len(sweep.failed)} of {len(cells)} runs failed: {', '.join(sweep.failed)}. The lines above say why.")
    return 2 if sweep.failed else 0


def evaluate(arguments):
    """Prints one row of the run table, and appends it where asked."""
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


def fit(arguments):
    """Fits a law to tables of runs, prints it, and writes its report where asked."""
    import shlex

    from compressed_lm import scaling
    from compressed_lm.tracking.progress import progress

    with progress("bootstrap", arguments.bootstrap or None, unit="tables") as bar:
        try:
            result = scaling.fit_tables(
                arguments.runs,
                arguments.law,
                columns=arguments.column,
                let=arguments.let,
                where=arguments.where,
                fixed=arguments.fix,
                shared=arguments.shared,
                reference=arguments.reference,
                delta=arguments.delta,
                loss_space=arguments.loss_space,
                samples=arguments.bootstrap,
                seed=arguments.seed,
                report=arguments.report,
                command=shlex.join(["compressed-lm", *sys.argv[1:]]),
                progress=lambda done, _: bar.advance(done - bar.done),
            )
        except ValueError as error:
            raise InputError(str(error)) from error
    print(result.summary() + (f"\n\nThe report is {arguments.report}." if arguments.report else ""))


def quantize(arguments):
    """Packs a finished run, and tells how large and how exact the result is."""
    import numpy as np
    import rich
    from rich.table import Table

    from compressed_lm import weights
    from compressed_lm.training import packed, run_dir

    form = weights.representation(arguments.format)
    matrices = packed.quantize_run(arguments.run, form, out=arguments.out, others=arguments.others)
    table = Table("matrix", "layers x inputs x outputs", "bits per weight", "squared error")
    for column in table.columns[2:]:
        column.justify = "right"
    for m in matrices:
        table.add_row(m.name, " x ".join(map(str, m.shape)), f"{m.bits_per_weight:.3f}", f"{m.error:.3g}")
    rich.print(table)
    sizes = [np.prod(m.shape) for m in matrices]
    bits = np.average([m.bits_per_weight for m in matrices], weights=sizes)
    size = (pathlib.Path(arguments.out) / run_dir.WEIGHTS).stat().st_size
    print(
        f"{arguments.out}: {sum(sizes):,} weights of the blocks in {form} take {bits:.3f} bits each; with all else in "
        f"{arguments.others} the file has {size:,} bytes. Gaussian weights would have the error {form.gmse():.3g}."
    )


def generate(arguments):
    """Streams sampled text."""
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


def report(arguments):
    """Writes the report of a run folder."""
    from compressed_lm.evaluation.report import report

    paths = report(arguments.run_dir)
    print(f"{paths.html} and {paths.markdown} are written.")
