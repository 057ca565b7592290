"""Command `shrink`: trains a smaller model from a finished run by projections (projected compression)."""

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import GIN, configure, validation
from compressed_lm.errors import InputError


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    parser.add_argument(
        "--keep",
        type=options.real(above=0, high=1),
        required=True,
        help="fraction of the parameters to keep, such as 0.5",
    )
    parser.add_path(
        "--store",
        kind=paths.READ,
        required=True,
        help="token store of the codec of the run, for calibration and training",
    )
    parser.add_argument(
        "--method",
        default="projected",
        help="projected (options: w_a=0 without the additive matrix, start=svd, base=random as a control), pruned "
        "(start=svd), scratch, low_rank (default %(default)s). Projections need a lower learning rate than the others",
    )
    parser.add_argument(
        "--importance",
        default="activations",
        help="score that selects the dimensions to keep: activations, magnitude or index (default %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        type=options.whole(1),
        default=512,
        help="rows of text for the activations (default %(default)s)",
    )
    parser.add_argument(
        "--aspect",
        type=options.real(above=0),
        help="d_ff / d_model of the small model (default: that of the large one)",
    )
    parser.add_argument(
        "--multiple",
        type=options.whole(1),
        default=8,
        help="d_model and d_ff are multiples of this (default %(default)s)",
    )
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="folder of the small run; resumes if interrupted")
    options.add_validation_store(parser)
    options.add_mesh(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="only print parameters, FLOPs and memory of the training; nothing is written",
    )
    options.add_training(parser, size=False)


def run(arguments):
    from compressed_lm import configuration
    from compressed_lm.data.store import TokenStore
    from compressed_lm.post_training.shrink import Shrink, shapes_of, shrink_run, untied
    from compressed_lm.training import make_mesh
    from compressed_lm.training.checkpoints import folder
    from compressed_lm.training.durations import rates
    from compressed_lm.training.run_dir import open_run

    shaped = [item for item in arguments.set if item.startswith("model.")]
    if shaped:
        raise InputError(
            f"--set {shaped[0]} was given; the small model has the settings of {arguments.run} except d_model and d_ff."
            " Leave it out, and set these two by --keep and --aspect."
        )
    resolved = configure(arguments)
    store, config, mesh = TokenStore.open(arguments.store), configuration.train(), arguments.mesh
    shrink = Shrink(
        keep=arguments.keep,
        method=arguments.method,
        importance=arguments.importance,
        calibration=arguments.calibration,
        aspect=arguments.aspect,
        multiple=arguments.multiple,
    )
    if arguments.dry_run:
        from compressed_lm.dry_run.program import dry_run
        from compressed_lm.dry_run.report import show

        run = open_run(arguments.run, store=store)
        small, start = shapes_of(run.abstract, run.model_config, shrink, config)
        print(_untied_note(untied(run.model_config, small)), end="")
        show(dry_run(config, small, eod_id=store.eod_id, mesh=make_mesh(mesh), start=start, **rates(store)))
        return
    out = folder(io.local_path(arguments.out, "--out"))
    found = shrink_run(
        arguments.run,
        store,
        shrink,
        config,
        out=out,
        mesh_shape=mesh,
        accepted=lambda: io.write_atomic(out / GIN, resolved),
        eval_fn_of=lambda model: validation(arguments.validation_store, model, store, config, mesh),
    )
    small = found.model_config
    print(_untied_note(found.untied), end="")
    print(
        f"{arguments.out}: d_model {small.d_model}, d_ff {small.d_ff}, {found.kept:.1%} of the parameters; "
        f"{found.trainable:,} numbers were trained over {found.frozen:,} frozen ones; last training loss "
        f"{found.loss_nats_per_token!r} nats per token. evaluate, generate, train --start, quantize and pack accept it."
    )


def _untied_note(numbers):
    """Returns a note if the small model has a separate output layer, else ''."""
    if not numbers:
        return ""
    return (
        "The large model uses its embedding table as output layer. start=svd gives the small model a separate output "
        f"layer of {numbers:,} numbers, which --keep counts.\n"
    )


COMMAND = Command(
    "shrink",
    "train a smaller model from a finished run, by projections of its weights (projected compression)",
    "compressed-lm shrink runs/base --keep 0.5 --store stores/c4 --out runs/half --steps 500",
    add_arguments,
    run,
    writes=True,
)
