"""Forward passes with run-time checks of all annotations in `models` and `weights`, for `test_models_shapes`.

    python tests/models/shape_cases.py

It prints one line of JSON, {"right" or "wrong": {case: error, or ""}}. Most cases are only traced, not compiled.
"""

import dataclasses
import json

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a valid float

CHECKED = ["compressed_lm.models", "compressed_lm.weights", "compressed_lm.exact"]

with install_import_hook(CHECKED, "__main__.checker"):
    from compressed_lm import exact, models, weights
    from compressed_lm.exact import calibration, device
    from compressed_lm.models import importance, positions

import jax  # noqa: E402  after the import hook
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

SMALL = models.TransformerConfig(
    vocab_size=264, d_model=12, n_layers=2, n_heads=4, d_head=6, d_ff=20, n_buckets=6, max_distance=8
)
VARIANTS = {
    "relative": {},
    "rotary": dict(position="rotary", n_kv_heads=2, qk_norm=True, scan_layers=False, dtype="bfloat16"),
    "neox": dict(norm="layer", bias="all", gated_mlp=False, parallel_residual=True, tie_embeddings=True),
    "remat": dict(remat="full", init_shape=1.0),
    "quest": dict(weights="int(b=4,rule=quest)", activations="int(b=8,rule=quest)"),
    "lsq": dict(weights="int(b=4,rule=lsq)", activations="e4m3"),
    "hybrid": dict(weights="sparse(s=0.5,rule=rbbm,p=0.2,ramp=0.5)+int(b=4)"),
    "blocks": dict(weights="mxfp4", activations="nvfp4"),
    "vectors": dict(weights="vq(dim=2,bits=2)", activations="rf8"),
    "noise": dict(weights="noise(gmse=0.1)", activations="nm"),
}
TOKENS = jnp.zeros((2, 64), jnp.int32)


def variant(name):
    """Returns a function that traces logits, gradients and a cached step of a variant."""

    def run(tokens):
        config = dataclasses.replace(SMALL, **VARIANTS[name])
        model, key = models.Transformer(config), jax.random.key(0)
        params = model.init(key, tokens)
        loss = lambda params: jnp.sum(model.apply(params, tokens, key=key, progress=0.5))  # noqa: E731
        prefix = jnp.zeros((2, 3, config.d_model))
        cache = models.init_cache(config, 2, 64)
        step = model.apply(params, tokens[:, 0], tokens[:, 1], cache, prefix=prefix, method="step")
        return jax.grad(loss)(params), model.apply(params, tokens[:, :5], prefix=prefix), step

    return lambda: jax.eval_shape(run, TOKENS)


def exact_model():
    """Quantises a model and traces its forward pass and a cached step."""
    params = models.Transformer(SMALL).init(jax.random.key(0), TOKENS[:, :8])["params"]
    integers, config = calibration.quantise(params, SMALL, TOKENS[:, :8], context=8)
    logits = jax.eval_shape(lambda x: device.weights_of(device.forward(integers, config, x)), TOKENS[:, :8])
    cache = device.init_cache(config, 2, 8)
    step, _ = jax.eval_shape(lambda x, cache: device.step(integers, config, x, x, cache), TOKENS[:, 0], cache)
    assert (logits.shape, step.shape) == ((2, 8, 257), (2, 257))


def pruned():
    """Traces scores, hard pruning and both starts of projections."""

    def run(params):
        kept = models.Selection(np.arange(8), np.tile(np.arange(16), (2, 1)))
        starts = [models.projected(params, kept, start=start) for start in ("one_hot", "svd")]
        return models.hard_pruned(params, kept), starts

    params = models.Transformer(SMALL).init(jax.random.key(0), TOKENS[:, :4])["params"]
    jax.eval_shape(run, params)
    scores = importance.activation_scores(params, np.zeros((3, 4), np.int32), config=SMALL)
    models.select(scores, d_model=8, d_ff=16)
    moment = importance.residual_moment(params, np.zeros((3, 4), np.int32), config=SMALL)
    assert moment.shape == (12, 12)


def wrong(function, *args, **kwargs):
    """Returns a function that traces a call with wrong shapes."""
    return lambda: jax.eval_shape(lambda: function(*args, **kwargs))


ATTENTION = models.layers.Attention(SMALL)
RIGHT = {name: variant(name) for name in VARIANTS} | {"exact": exact_model, "pruned": pruned}
WRONG = {
    "tokens without a batch": wrong(models.Transformer(SMALL).init, jax.random.key(0), jnp.zeros(4, jnp.int32)),
    "tokens that are floats": wrong(models.Transformer(SMALL).init, jax.random.key(0), jnp.zeros((1, 4))),
    "targets without a batch": wrong(models.shift_right, jnp.zeros(4, jnp.int32), 0),
    "attention without a batch": wrong(ATTENTION.init, jax.random.key(0), jnp.zeros((4, 12))),
    "positions of other slots": wrong(
        ATTENTION.init,
        jax.random.key(0),
        jnp.zeros((2, 12)),
        jnp.zeros(3, jnp.int32),
        models.init_cache(SMALL, 2, 4)[0],
        method="step",
    ),
    "keys of another length": wrong(
        models.layers._chunked,
        *(jnp.zeros((1, 4, 2, 6)), jnp.zeros((1, 5, 2, 6)), jnp.zeros((1, 4, 2, 6))),
        scale=1.0,
        window=0,
    ),
    "rotary vectors without heads": wrong(positions.rotate, jnp.zeros(6), jnp.zeros((), jnp.int32), jnp.zeros(3)),
    "exact inputs without a batch": lambda: device.forward({}, exact.ExactConfig(1, 4, 2, 2, 4, 8), np.zeros(4, int)),
    "exact logits that are floats": lambda: device.weights_of(jnp.zeros((2, 257))),
    "integer weights": lambda: weights.representation("int(b=4)").quantize(jnp.zeros((4, 4), jnp.int32)),
}


def error_of(function) -> str:
    """Returns the error of a call, "" for none."""
    try:
        function()
    except Exception as error:  # every error is reported
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    cases = {"right": RIGHT, "wrong": WRONG}
    print(json.dumps({kind: {case: error_of(f) for case, f in group.items()} for kind, group in cases.items()}))
