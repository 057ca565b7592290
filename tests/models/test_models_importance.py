"""Importance scores, and baselines for projections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models
from compressed_lm.errors import InputError
from compressed_lm.weights.projection import merge

CONFIG = models.TransformerConfig(
    vocab_size=40, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64, activation="silu", tie_embeddings=True
)
TOKENS = np.random.default_rng(0).integers(0, 40, (5, 12)).astype(np.int32)
KEPT = models.Selection(np.arange(0, 32, 4), np.tile(np.arange(0, 64, 4), (2, 1)))


def params_of(config):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), TOKENS)["params"]
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype(np.float32), shapes)
    for name in ("attention_norm", "mlp_norm"):
        params["layers"][name]["scale"] += 1
    return params


def test_activation_scores_are_sums_of_absolute_activations():
    """Scores equal those of a NumPy forward pass of one layer, and padding of the last batch is not counted."""
    config = dataclasses.replace(CONFIG, n_layers=1)
    params = params_of(config)
    params["layers"]["attention"]["out"]["kernel"][:] = 0  # attention adds nothing, so NumPy need not compute it
    done = []
    found = models.activation_scores(params, TOKENS, config=config, batch=2, progress=done.append)
    assert done == [2, 4, 5]
    layer = jax.tree.map(lambda x: np.asarray(x[0], np.float64), params["layers"])
    x = np.asarray(params["embed"]["embedding"], np.float64)[TOKENS]
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    first, second = (x * layer[name]["scale"][None, None] for name in ("attention_norm", "mlp_norm"))
    np.testing.assert_allclose(found.d_model, np.sum(np.abs(first) + np.abs(second), axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(found.d_ff, np.abs(second @ layer["mlp"]["up"]["kernel"]).sum((0, 1))[None], rtol=1e-4)
    moment = models.residual_moment(params, TOKENS, config=config, batch=2)
    np.testing.assert_allclose(moment, np.einsum("bld,ble->de", x, x) / TOKENS.size, rtol=1e-3, atol=1e-4)


def test_activation_scores_follow_the_model_through_its_layers():
    """The scores of the second layer change with the weights of the first."""
    params = params_of(CONFIG)
    before = models.activation_scores(params, TOKENS, config=CONFIG, batch=5)
    params["layers"]["mlp"]["down"]["kernel"][0] *= 5
    after = models.activation_scores(params, TOKENS, config=CONFIG, batch=5)
    np.testing.assert_array_equal(before.d_ff[0], after.d_ff[0])
    assert np.abs(before.d_ff[1] - after.d_ff[1]).max() > 0.1


def test_activation_scores_follow_windows_scales_and_positions():
    """Scores see the scale of the embeddings, the window of each layer, and learned positions."""
    others = dict(position="learned", max_length=12, norm_place="both", n_layers=3)
    config = dataclasses.replace(CONFIG, **others, window=3, layer_pattern="lg", embed_scale=2.0)
    params = params_of(config)
    score = lambda params, config: models.activation_scores(params, TOKENS, config=config, batch=5)  # noqa: E731
    found = score(params, config)
    doubled = params | {"embed": {"embedding": 2 * params["embed"]["embedding"]}}
    same = score(doubled, dataclasses.replace(config, embed_scale=1.0))
    np.testing.assert_allclose(found.d_ff, same.d_ff, rtol=1e-5)
    shifted = params | {"positions": {"embedding": params["positions"]["embedding"][::-1]}}
    assert np.abs(score(shifted, config).d_model - found.d_model).max() > 0.1
    wide, none = (dataclasses.replace(config, window=n, layer_pattern=p) for n, p in ((12, "lg"), (0, "")))
    np.testing.assert_allclose(score(params, wide).d_ff, score(params, none).d_ff, rtol=1e-5)
    assert np.abs(score(params, none).d_ff - found.d_ff).max() > 0.1
    with pytest.raises(InputError, match="norm_place=after.; expected norms before them"):
        models.residual_moment(params, TOKENS, config=dataclasses.replace(config, norm_place="after"))


def test_magnitude_scores_by_hand():
    """Scores of d are the mean norm of a dimension's rows and columns, scores of f the sum over up, gate and down."""
    params = params_of(CONFIG)
    layers = params["layers"]
    attention, mlp = layers["attention"], layers["mlp"]
    readers = [attention[name]["kernel"][i] for name in "qkv" for i in (0, 1)]
    readers += [mlp[name]["kernel"][i] for name in ("up", "gate") for i in (0, 1)]
    writers = [attention["out"]["kernel"][i] for i in (0, 1)] + [mlp["down"]["kernel"][i] for i in (0, 1)]
    writers += [params["embed"]["embedding"]]
    rows = [np.linalg.norm(w[3]) for w in readers] + [np.linalg.norm(w[:, 3]) for w in writers]
    found = models.magnitude_scores(params)
    assert found.d_model[3] == pytest.approx(np.mean(rows))
    up, gate, down = (mlp[name]["kernel"][1] for name in ("up", "gate", "down"))
    wanted = np.linalg.norm(up[:, 7]) + np.linalg.norm(gate[:, 7]) + np.linalg.norm(down[7])
    assert found.d_ff[1, 7] == pytest.approx(wanted)
    assert found.d_ff.shape == (2, 64)


def test_the_highest_are_kept_in_their_order():
    """Selections are sorted and separate for each layer, and index scores keep the first dimensions."""
    scores = models.Scores(np.array([1.0, 5, 3, 5, 0]), np.array([[3.0, 1, 2], [1, 2, 3]]))
    kept = models.select(scores, d_model=3, d_ff=2)
    np.testing.assert_array_equal(kept.d_model, [1, 2, 3])
    np.testing.assert_array_equal(kept.d_ff, [[0, 2], [1, 2]])
    assert kept.d_model.dtype == kept.d_ff.dtype == np.int32
    first = models.select(models.index_scores(CONFIG), d_model=4, d_ff=3)
    np.testing.assert_array_equal(first.d_model, [0, 1, 2, 3])
    np.testing.assert_array_equal(first.d_ff, [[0, 1, 2], [0, 1, 2]])


def test_low_rank_factors_keep_the_share():
    """The number of parameters is near the share, and factors are the best of their rank (Eckart-Young)."""
    params = params_of(CONFIG)
    total = models.count_params(CONFIG).total
    tree = models.low_rank(params, keep=0.5)
    assert sum(x.size for x in jax.tree.leaves(tree)) / total == pytest.approx(0.5, abs=0.02)
    merged = merge(tree, {})
    up, rank = params["layers"]["mlp"]["up"]["kernel"][1], tree["layers"]["mlp"]["up"]["kernel"]["left"].shape[-1]
    left_out = np.linalg.svd(up, compute_uv=False)[rank:]
    error = np.linalg.norm(merged["layers"]["mlp"]["up"]["kernel"][1] - up)
    assert error == pytest.approx(np.sqrt(np.sum(left_out**2)), rel=1e-3)
    assert merged["embed"]["embedding"].shape == (40, 32)


@pytest.mark.slow("compiles a model for each setting")
def test_a_random_base_starts_at_the_same_model():
    """The frozen base is noise of the same norm, w_a stores the difference, and the merged model is hard-pruned."""
    params = params_of(CONFIG)
    projected, frozen = models.random_base(params, models.projected(params, KEPT), key=jax.random.key(0))
    pruned = models.hard_pruned(params, KEPT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merge(projected, frozen), pruned)
    ours, theirs = (tree["layers"]["mlp"]["up"]["kernel"] for tree in (frozen, params))
    np.testing.assert_allclose(*(np.linalg.norm(w, axis=(1, 2)) for w in (ours, theirs)), rtol=1e-5)
    assert abs(np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1]) < 0.1
    assert np.abs(np.asarray(ours[0]) - np.asarray(ours[1])).max() > 0.1
    np.testing.assert_array_equal(frozen["layers"]["mlp_norm"]["scale"], params["layers"]["mlp_norm"]["scale"])


def test_wrong_inputs_say_what_to_do():
    """Errors say what was given and what was expected."""
    scores = models.index_scores(CONFIG)
    with pytest.raises(InputError, match="d_ff=65 was given for a model with 64; expected 1 to 64"):
        models.select(scores, d_model=8, d_ff=65)
    with pytest.raises(InputError, match="scores of d_model are not all finite.*magnitude"):
        models.select(scores._replace(d_model=np.full(32, np.nan)), d_model=8, d_ff=8)
    with pytest.raises(InputError, match=r"shape \(12,\) were given; expected rows of tokens"):
        models.activation_scores({}, TOKENS[0], config=CONFIG)
    params = {"layers": {"mlp": {"up": {"kernel": jnp.ones((1, 32, 64))}}}}
    with pytest.raises(InputError, match=r"keep=0\.01 was given, but factors of rank 1"):
        models.low_rank(params, keep=0.01)
    with pytest.raises(InputError, match="keep=1 was given; expected the share"):
        models.low_rank(params, keep=1)
    bare = {"layers": {"mlp": {"up": {"kernel": {"p_in": jnp.ones((1, 32, 8))}}}}}
    with pytest.raises(InputError, match=r"mlp/up/kernel has the factors p_in and no w_a.*Use projections with w_a"):
        models.random_base(params, bare, key=jax.random.key(0))
