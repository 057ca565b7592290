"""Options of the cramming commands, and the model and configuration read from them."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.common import load_codec

MARGIN_HELP = (
    "a token counts as correct if its logit exceeds all others by more than this, so that rounding on another "
    "device changes no token (default %(default)s)"
)


def add_model(parser):
    """Adds --model and --codec."""
    parser.add_path("--model", kind=paths.RUN, required=True, help="folder of a training or imported run")
    options.add_codec(parser, required=False, help="its codec directory (default: RUN/codec if it exists, else bytes)")


def add_optimization(parser):
    """Adds the options of the optimisation; the defaults are those of the paper."""
    parser.add_argument(
        "--method",
        default="full",
        help="full (the whole text at once) or progressive (a growing prefix of it) (default %(default)s)",
    )
    parser.add_argument(
        "--steps", type=options.whole(1), default=5000, help="most updates per text (default %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=options.whole(1),
        default=2000,
        help="stop after this many updates without improvement (default %(default)s)",
    )
    parser.add_argument(
        "--learning_rate", type=options.real(above=0), default=0.01, help="learning rate of AdamW (default %(default)s)"
    )
    parser.add_argument(
        "--schedule",
        default="constant",
        help="learning rate schedule: constant, linear or cosine (default %(default)s)",
    )
    parser.add_argument(
        "--warmup_steps", type=options.whole(), default=0, help="warmup of the learning rate (default %(default)s)"
    )
    parser.add_argument(
        "--dimensions",
        type=options.whole(),
        default=0,
        help="numbers per vector that are optimised and stored; 0 for all (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=options.whole(), default=0, help="seed of the initial vectors (default %(default)s)"
    )


def model(arguments):
    """Returns the frozen model of --model, its codec, and the length of its training rows (tokens)."""
    from compressed_lm.cramming import FrozenModel
    from compressed_lm.training import load_run
    from compressed_lm.training.run_dir import own_codec

    codec = load_codec(arguments.codec or str(own_codec(arguments.model) or "bytes"))
    run = load_run(arguments.model, codec=codec)
    return FrozenModel.from_run(run), codec, run.train_config.seq_len


def config(arguments, **changes):
    """Returns the CramConfig of the options, with changes."""
    from compressed_lm.cramming import CramConfig

    names = ("method", "steps", "patience", "learning_rate", "schedule", "warmup_steps", "margin", "dimensions", "seed")
    given = {name: getattr(arguments, name) for name in names} | {"format": getattr(arguments, "format", "dense")}
    return CramConfig(**dict(n_vectors=arguments.k) | given | changes)
