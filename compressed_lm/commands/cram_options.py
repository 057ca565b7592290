"""Options of the cramming commands, and the model and configuration read from them."""

import argparse
import dataclasses

from compressed_lm.commands import options, paths
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError

MARGIN_HELP = (
    "a token counts as correct if its logit exceeds all others by more than this, so that rounding on another "
    "device changes no token (default %(default)s)"
)


def add_model(parser):
    """Adds --model and --codec."""
    parser.add_path("--model", kind=paths.RUN, required=True, help="folder of a training or imported run")
    options.add_codec(parser, required=False, help="its codec directory (default: RUN/codec if it exists, else bytes)")


def add_optimization(parser):
    """Adds --recipe and the settings of the optimisation, each with the value of the recipe by default."""
    parser.add_argument(
        "--recipe",
        default="kuratov2025",
        help="settings to start from: kuratov2025 (the whole text at once) or tarasov2026 (progressive cramming, at a "
        "tenfold learning rate); the options below change them (default %(default)s)",
    )

    def add(name, kind, text, **more):
        parser.add_argument(f"--{name}", type=kind, help=f"{text} (default: that of the recipe)", **more)

    positive, share = options.real(above=0), options.real(low=0, below=1)
    add("method", str, "full (the whole text at once) or progressive (a growing prefix of it)")
    add("grow", options.whole(1), "tokens that a progressive target is longer than the longest exact prefix")
    parser.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        help="compute only the target of progressive cramming (default: that of the recipe)",
    )
    add("steps", options.whole(1), "most updates per text")
    add("patience", options.whole(1), "stop after this many updates without improvement")
    add("learning_rate", positive, "learning rate of AdamW")
    add("schedule", str, "learning rate schedule: constant, linear or cosine")
    add("warmup_steps", options.whole(), "warmup of the learning rate")
    add("final_rate", options.real(low=0), "learning rate at the end of a linear or cosine schedule")
    add("b1", share, "decay of AdamW's mean gradient")
    add("b2", share, "decay of AdamW's mean square")
    add("eps", positive, "number added to AdamW's root mean square")
    add("weight_decay", options.real(low=0), "weight decay of AdamW")
    add("first_weight", positive, "weight of the first two tokens in the loss")
    add("init", str, "initial numbers: normal (with the deviation of the embeddings) or uniform (from -1 to 1)")
    add("init_scale", positive, "factor of the initial numbers")
    add("dimensions", options.whole(), "numbers per vector that are optimised; 0 for all")
    add("projection", str, "map from --dimensions to a vector: signs (fixed), learned (per text) or shared (learned)")
    add("projection_seed", options.whole(), "seed of the random signs")
    add("seed", options.whole(), "seed of the initial vectors")


def model(arguments):
    """Returns the frozen model of --model, its codec, and the length of its training rows (tokens)."""
    from compressed_lm.cramming import FrozenModel
    from compressed_lm.training import load_run
    from compressed_lm.training.run_dir import own_codec

    codec = load_codec(arguments.codec or str(own_codec(arguments.model) or "bytes"))
    run = load_run(arguments.model, codec=codec)
    return FrozenModel.from_run(run), codec, run.train_config.seq_len


def config(arguments, **changes):
    """Returns the CramConfig of the recipe and the options, with changes."""
    from compressed_lm.cramming import CramConfig
    from compressed_lm.cramming.config import RECIPES

    if arguments.recipe not in RECIPES:
        raise InputError(f"--recipe {arguments.recipe} was given; expected one of {', '.join(RECIPES)}.")
    names = [field.name for field in dataclasses.fields(CramConfig) if field.name not in ("n_vectors", "format")]
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    base = RECIPES[arguments.recipe] | {"n_vectors": arguments.k, "format": getattr(arguments, "format", "dense")}
    if given.get("method", "progressive") != "progressive" and "crop" not in given:
        base |= {"crop": False}
    return CramConfig(**base | given | changes)
