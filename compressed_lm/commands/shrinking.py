"""The verb that makes the model of a run smaller. Imports wait until it runs, so that `--help` is instant."""

from compressed_lm import io
from compressed_lm.commands.common import GIN, configure, validation
from compressed_lm.errors import InputError


def shrink(arguments):
    """Trains a smaller model out of a run, or tells what that would need."""
    from compressed_lm import configuration
    from compressed_lm.data.store import TokenStore
    from compressed_lm.post_training.shrink import Shrink, shrink_run
    from compressed_lm.training import load_run, make_mesh
    from compressed_lm.training.checkpoints import folder, write
    from compressed_lm.training.durations import rates

    shaped = [item for item in arguments.set if item.startswith("model.")]
    if shaped:
        raise InputError(
            f"--set {shaped[0]} was given; the small model has the settings of {arguments.run} but for its widths, "
            "which --keep and --aspect give."
        )
    resolved = configure(arguments)
    store, config, mesh = TokenStore.open(arguments.tokens), configuration.train(), arguments.mesh
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
        from compressed_lm.post_training.shrink import shapes_of, untied

        run = load_run(arguments.run, store=store)
        small, start = shapes_of(run.params, run.model_config, shrink, config)
        print(_untied(untied(run.model_config, small)), end="")
        show(dry_run(config, small, eod_id=run.eod_id, mesh=make_mesh(mesh), start=start, **rates(store)))
        return
    out = folder(io.local_path(arguments.out, "--out"))
    found = shrink_run(
        arguments.run,
        store,
        shrink,
        config,
        out=out,
        mesh_shape=mesh,
        accepted=lambda: write(out / GIN, resolved),
        eval_fn_of=lambda model: validation(arguments.validation_tokens, model, store, config, mesh),
    )
    small = found.model_config
    print(_untied(found.untied), end="")
    print(
        f"{arguments.out}: d_model {small.d_model}, d_ff {small.d_ff}, {found.kept:.1%} of the parameters; "
        f"{found.trainable:,} numbers were trained over {found.frozen:,} frozen ones; last training loss "
        f"{found.loss_nats_per_token!r} nats per token. evaluate, generate, train --start, quantize and pack take it."
    )


def _untied(numbers):
    """Returns the line that says that the small model has an output layer of its own; nothing where that is not new."""
    if not numbers:
        return ""
    return (
        "The embedding table of the large model is its output layer, too. start=svd gives the small model an output "
        f"layer of its own: {numbers:,} numbers, which --keep counts.\n"
    )
