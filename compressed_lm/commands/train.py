"""Command `train`: trains a model on a token store; with --dry_run only estimates the cost."""

import contextlib
import math

from compressed_lm import caches, io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import GIN, configure, validation
from compressed_lm.errors import InputError


def add_arguments(parser):
    from compressed_lm.tracking import TRACKERS

    parser.add_path(
        "--store",
        kind=paths.CORPUS,
        help="folder of a token store, or a mixture of stores of one codec: mix:0.7*stores/web,0.3*stores/books",
    )
    parser.add_path(
        "--out",
        kind=paths.NEW_RUN,
        help="folder of the run, also gs:// or s3://; resumes if interrupted, bit for bit",
    )
    parser.add_path(
        "--start", kind=paths.RUN, metavar="RUN", help="start from the parameters of this run instead of random ones"
    )
    options.add_validation_store(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="compile the step and print parameters, FLOPs, memory, traffic between devices and estimated times; "
        "reads no data",
    )
    parser.add_argument(
        "--tpu", metavar="NAME", help="dry run for a TPU such as v5e:4x4, without TPU hardware (pip: extra [tpu])"
    )
    options.add_mesh(parser)
    parser.add_argument(
        "--distributed",
        choices=("auto", "off", "on"),
        default="auto",
        help="join the other processes of a pod or cluster: auto if one is found, on or else fail (default auto)",
    )
    for name, option in TRACKERS.items():
        parser.add_argument(f"--{name}", **option.argument)
    parser.add_argument(
        "--profile",
        type=options.first_and_last,
        metavar="FIRST,LAST",
        help="write a trace of these steps to OUT/profile",
    )
    parser.add_argument(
        "--hang_seconds",
        type=options.real(low=0),
        default=600,
        help="report a step that takes longer, and the slow processes; 0 for never (default %(default)s)",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="run layer by layer on one device without compiling, and stop at the first NaN",
    )
    options.add_training(parser)


def run(arguments):
    if arguments.dry_run or arguments.tpu is not None:
        return _dry_run(arguments)
    if not arguments.store or not arguments.out:
        raise InputError("train was given no --store or no --out. Give both, or --dry_run.")
    from compressed_lm.distributed import startup

    joined = startup.initialize(arguments.distributed)
    if joined:
        print(joined, flush=True)

    import jax

    from compressed_lm import configuration
    from compressed_lm.data.store_mixture import open_store
    from compressed_lm.models import model_vocab_size
    from compressed_lm.tracking import TRACKERS
    from compressed_lm.training import make_mesh, train
    from compressed_lm.training.checkpoints import folder
    from compressed_lm.training.durations import rates
    from compressed_lm.training.run_dir import copy_codec

    resolved = configure(arguments)
    store = open_store(arguments.store)
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
    eval_fn = validation(arguments.validation_store, model, store, config, mesh)
    trackers = []

    with contextlib.ExitStack() as stack:

        def accepted():
            for name, option in TRACKERS.items():
                if value := getattr(arguments, name):
                    trackers.append(option.make(value, out))
                    stack.callback(trackers[-1].close)
            io.write_atomic(out / GIN, resolved)
            if arguments.start:
                copy_codec(arguments.start, out)

        result = train(
            config,
            model,
            store,
            out=out,
            mesh_shape=mesh,
            trackers=trackers,
            eval_fn=eval_fn,
            start=start,
            compilation_cache=caches.xla(),  # a restart does not compile again
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
    """Returns the model of a run with the changes of the configuration, and the run's parameters as a start."""
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
            "model settings; those of the run are used."
        )
    return model, Start(run.params)


def _dry_run(arguments):
    """Prints the estimated cost of a run."""
    devices = None
    if arguments.tpu is not None:
        from compressed_lm.dry_run.topologies import tpu_devices

        devices = tpu_devices(arguments.tpu)

    from compressed_lm import configuration
    from compressed_lm.data.store_mixture import open_store
    from compressed_lm.dry_run.program import dry_run
    from compressed_lm.dry_run.report import show
    from compressed_lm.models import model_vocab_size
    from compressed_lm.training import make_mesh
    from compressed_lm.training.durations import rates

    configure(arguments)
    data = configuration.data()
    if arguments.store:
        store = open_store(arguments.store)
        data.check(store)
        known, vocab_size = rates(store), store.vocab_size
    else:
        known, vocab_size = {"bytes_per_token": data.bytes_per_token or None}, data.vocab_size
    if vocab_size is None:
        raise InputError(
            "A dry run needs a vocabulary and was given none. Give a token store (--store), a configuration that "
            "names its codec (--gin runs/paper_bytes.gin), or --set 'data.codec=eiw(b=16,v=65536)'."
        )
    model = configuration.model(model_vocab_size(vocab_size))
    mesh = make_mesh(arguments.mesh, devices=devices)
    show(dry_run(configuration.train(), model, eod_id=vocab_size, mesh=mesh, **known))


COMMAND = Command(
    "train",
    "train a model on a token store",
    "compressed-lm train --store stores/c4 --out runs/eiw --size micro --steps 1000",
    add_arguments,
    run,
    writes=True,
)
