"""Verbs that train runs and look at them. Imports wait until their verb runs, so that `--help` is instant."""

import contextlib
import functools
import math
import sys

from compressed_lm import caches, io
from compressed_lm.commands.common import GIN, configure, load_codec, messages, validation
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def doctor(arguments) -> int:
    """Prints the state of the installation."""
    from compressed_lm.commands import doctor_report as diagnosis

    return diagnosis.run()


def demo(arguments):
    """Runs the whole job."""
    from compressed_lm.pipelines import demo as whole_job

    bindings = [*arguments.set]
    given = {name: getattr(arguments, name) for name in ("corpus", "validation", "m1")}
    bindings += [f"demo.{name}={value}" for name, value in given.items() if value]
    whole_job.run(arguments.out, gin_files=arguments.gin or arguments.gin_default, bindings=bindings)


def train_m1(arguments):
    """Trains a byte model and exports its exact form."""
    from compressed_lm import codecs, configuration
    from compressed_lm.data import job
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.data.store import MANIFEST
    from compressed_lm.models import model_vocab_size
    from compressed_lm.models.exact import check_exactable
    from compressed_lm.pipelines import stages
    from compressed_lm.training import run_dir, train
    from compressed_lm.training.checkpoints import folder, write

    resolved = configure(arguments)
    out = folder(io.local_path(arguments.out, "--out"))
    model, config = configuration.model(model_vocab_size(256)), configuration.train()
    check_exactable(model, config.seq_len)  # before hours of training, not after
    with locks.held(out):
        if run_dir.read_record(out) and not (out / "tokens" / MANIFEST).exists():
            raise InputError(f"{out} holds a run that `train-m1` did not make. Give another folder for --out.")
        store = job.compress(
            open_corpus(arguments.corpus, validation=arguments.validation),
            "train",
            codecs.Bytes(),
            out / "tokens",
            max_bytes=arguments.max_bytes,
        )
        result = train(config, model, store, out=out, accepted=lambda: write(out / GIN, resolved))
        m1 = stages.export_m1(out, store)
    print(
        f"M1 is {out / stages.M1_FILE}, hash {m1.hash[:12]}; last training loss "
        f"{result.loss_nats_per_token / math.log(2):.3f} bits per byte."
    )


def train(arguments):
    """Trains a model, or tells what training it would need."""
    if arguments.dry_run or arguments.tpu is not None:
        return _dry_run(arguments)
    if not arguments.tokens or not arguments.out:
        raise InputError("train was given no --tokens or no --out: both are needed, but for a --dry_run.")
    from compressed_lm.distributed import startup

    joined = startup.initialize(arguments.distributed)
    if joined:
        print(joined, flush=True)

    import jax

    from compressed_lm import configuration
    from compressed_lm.data.store import TokenStore
    from compressed_lm.models import model_vocab_size
    from compressed_lm.post_training import quantize
    from compressed_lm.tracking import TensorBoard, Wandb
    from compressed_lm.training import make_mesh, train
    from compressed_lm.training.checkpoints import folder, write
    from compressed_lm.training.durations import rates

    resolved = configure(arguments)
    store = TokenStore.open(arguments.tokens)
    configuration.data().check(store)
    config, start = configuration.train(), None
    if arguments.start:
        model, start = _started_from(arguments.start, store)
    else:
        model = configuration.model(model_vocab_size(store.vocab_size))
    out, mesh = folder(arguments.out), arguments.mesh
    table = startup.startup_table(make_mesh(mesh))
    if jax.process_index() == 0:
        print(table, flush=True)
    eval_fn = validation(arguments.validation_tokens, model, store, config, mesh)
    trackers = []

    with contextlib.ExitStack() as stack:

        def accepted():
            trackers.extend([TensorBoard(out / "tensorboard")] if arguments.tensorboard else [])
            trackers.extend([Wandb(out, project=arguments.wandb)] if arguments.wandb else [])
            for tracker in trackers:
                stack.callback(tracker.close)
            write(out / GIN, resolved)
            if arguments.start:
                quantize.copy_codec(arguments.start, out)

        result = train(
            config,
            model,
            store,
            out=out,
            mesh_shape=mesh,
            trackers=trackers,
            eval_fn=eval_fn,
            start=start,
            compilation_cache=caches.xla(),  # a restart then begins at once
            hang_seconds=arguments.hang_seconds,
            profile_steps=arguments.profile,
            debug=arguments.debug,
            accepted=accepted,
        )
    per_byte = 1 / rates(store)["bytes_per_token"] / math.log(2)
    if jax.process_index() == 0:
        print(
            f"{out}: step {result.step}, {result.n_params:,} parameters, {result.n_tokens:,} tokens; last "
            f"training loss {result.loss_nats_per_token!r} nats per token "
            f"({result.loss_nats_per_token * per_byte:.3f} bits per byte)."
        )


def _started_from(directory, store):
    """Returns the model that goes on from a run, with what the configuration says of it, and its start."""
    import jax

    from compressed_lm import configuration
    from compressed_lm.models import Transformer
    from compressed_lm.models.partitioning import by_name
    from compressed_lm.training import Start, load_run

    run = load_run(directory)
    model, tokens = configuration.model_after(run.model_config), jax.ShapeDtypeStruct((1, 1), "int32")
    wanted, given = (
        {name: leaf.shape for name, leaf in by_name(params).items()}
        for params in (jax.eval_shape(Transformer(model).init, jax.random.key(0), tokens)["params"], run.params)
    )
    changes = [
        f"{k} is {wanted.get(k)} and was {given.get(k)}" for k in wanted | given if wanted.get(k) != given.get(k)
    ]
    if run.codec_fingerprint != store.codec_fingerprint:
        changes.append(f"the tokens are of {store.codec_spec} and were of {run.codec_spec}")
    if changes:
        raise InputError(
            f"--start {directory} was given, and its parameters do not fit: {'; '.join(changes)}. Leave out the "
            "settings of the model: it has those of the run."
        )
    return model, Start(run.params)


def _dry_run(arguments):
    """Prints what a run would need."""
    devices = None
    if arguments.tpu is not None:
        from compressed_lm.dry_run.topologies import tpu_devices

        devices = tpu_devices(arguments.tpu)

    from compressed_lm import configuration
    from compressed_lm.data.store import TokenStore
    from compressed_lm.dry_run.program import dry_run
    from compressed_lm.dry_run.report import show
    from compressed_lm.models import model_vocab_size
    from compressed_lm.training import make_mesh
    from compressed_lm.training.durations import rates

    configure(arguments)
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
    mesh = make_mesh(arguments.mesh, devices=devices)
    show(dry_run(configuration.train(), model, eod_id=vocab_size, mesh=mesh, **known))


def sweep(arguments) -> int:
    """Runs a grid. Returns 2 if a run of it failed."""
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.pipelines import grid, stages
    from compressed_lm.pipelines.sweep import Sweep

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
        mesh_shape=arguments.mesh,
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
    from compressed_lm import scaling
    from compressed_lm.data.store import TokenStore
    from compressed_lm.pipelines import stages

    if arguments.table:
        scaling.check_table(arguments.table)
    row = stages.evaluate_run(
        arguments.run,
        codec=load_codec(arguments.codec),
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
        value = f"{row[name]:,.6g}" if isinstance(row[name], float) else f"{row[name]:,}"
        print(f"{name:24s} {value}", file=messages(arguments.table))
    if arguments.table:
        scaling.append_row(arguments.table, row)


def generate(arguments):
    """Streams sampled text."""
    from compressed_lm.evaluation import generate
    from compressed_lm.terminal import literal
    from compressed_lm.training import load_run

    run, codec = load_run(arguments.run), load_codec(arguments.codec)
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
        print(literal(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    print()


def fit(arguments):
    """Fits a law to tables of runs, prints it, and writes its report where asked."""
    import shlex

    from compressed_lm import scaling
    from compressed_lm.tracking.progress import progress

    with contextlib.ExitStack() as stack:
        bar = None
        if arguments.bootstrap:
            bar = stack.enter_context(progress("bootstrap", arguments.bootstrap, unit="tables"))
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
                progress=bar and (lambda done, _: bar.advance(done - bar.done)),
            )
        except ValueError as error:
            raise InputError(str(error)) from error
    written = f"\n\nThe report is {arguments.report}." if arguments.report else ""
    print(result.summary() + written, file=messages(arguments.report))


def report(arguments):
    """Writes the report of a run folder."""
    from compressed_lm.reports.run import report

    paths = report(arguments.run_dir)
    print(f"{paths.html} and {paths.markdown} are written.")
