"""Widths, hard pruning and initial projections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models
from compressed_lm.errors import InputError
from compressed_lm.weights.projection import merge, merge_cost

CONFIG = models.TransformerConfig(
    vocab_size=40, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64, n_kv_heads=1, qk_norm=True, activation="silu"
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 12)))
KEPT = models.Selection(
    np.array([1, 2, 5, 8, 13, 21, 30, 31]), np.stack([np.arange(0, 64, 4), np.arange(3, 64, 4)])
)  # 8 of 32, 16 of 64
LLAMA_1B = models.TransformerConfig(
    vocab_size=128_256, d_model=2048, n_layers=16, n_heads=32, d_head=64, d_ff=8192, n_kv_heads=8, position="rotary"
)
LLAMA_8B = dataclasses.replace(LLAMA_1B, d_model=4096, n_layers=32, d_head=128, d_ff=14336)
GPT_800M = models.TransformerConfig(
    vocab_size=50_257, d_model=1536, n_layers=24, n_heads=24, d_head=64, d_ff=6144, gated_mlp=False, position="rotary"
)
GPT_300M = dataclasses.replace(GPT_800M, d_model=1024, n_layers=16, n_heads=16, d_ff=4096)
SMOL_360M = dataclasses.replace(
    LLAMA_1B, vocab_size=49_152, d_model=960, n_layers=32, n_heads=15, n_kv_heads=5, d_ff=2560
)


def trained_like(config, *, biases=False):
    """Returns parameters as large as trained ones, with biases as in GPT-NeoX."""
    rng = np.random.default_rng(1)
    params = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), TOKENS)["params"]
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.25).astype(np.float32), params)
    norms = (params["layers"]["attention_norm"], params["layers"]["mlp_norm"], params["final_norm"])
    for norm in norms:
        norm["scale"] += 1
    if biases:
        layers = params["layers"]
        for part in (*(layers["attention"][name] for name in "q k v out".split()), *layers["mlp"].values()):
            part["bias"] = rng.normal(size=(config.n_layers, part["kernel"].shape[-1])).astype(np.float32)
        for norm in norms:
            norm["bias"] = rng.normal(size=norm["scale"].shape).astype(np.float32)
    return params


@jax.jit
def both(params):
    """Returns the merged one-hot start and the hard-pruned model."""
    return merge(models.projected(params, KEPT), params), models.hard_pruned(params, KEPT)


def logits(params, config, **widths):
    model = models.Transformer(models.small_config(config, **widths) if widths else config)
    return jax.jit(model.apply)({"params": params}, TOKENS)


@pytest.mark.parametrize(
    ("config", "total", "widths", "paper_kept", "paper_removed", "removed"),
    [
        (LLAMA_1B, 1_498_482_688, (1344, 5376), 786_574_656, 47.5, 46.5),
        (LLAMA_1B, 1_498_482_688, (960, 3840), 485_161_920, 67.6, 66.5),
        (LLAMA_1B, 1_498_482_688, (448, 1792), 178_698_688, 88.1, 87.3),
        (LLAMA_8B, 8_030_261_248, (3072, 9216), 4_412_083_200, 45.1, 43.8),
        (LLAMA_8B, 8_030_261_248, (2160, 6480), 2_471_871_600, 69.2, 67.6),
        (LLAMA_8B, 8_030_261_248, (1056, 3168), 835_406_880, 89.6, 88.3),
        (GPT_800M, 833_942_016, (528, 2112), 171_707_184, 79.4, 77.9),
        (GPT_300M, 304_286_720, (480, 1920), 105_033_120, 65.5, 64.1),
        (SMOL_360M, 409_007_040, (330, 880), 80_720_970, 80.3, 78.6),
    ],
)
def test_sizes_are_those_of_the_paper(config, total, widths, paper_kept, paper_removed, removed):
    """Parameter counts equal the authors' (papers/004 section 3) exactly, after one error of theirs is corrected.

    Their notebook counts the attention's output matrix of the small model as d_c x d_c, but heads are kept, so it is
    (heads * head width) x d_c: the real shapes have 1 or 2 percentage points more.
    """
    d_c, f_c = widths
    small = models.small_config(config, d_model=d_c, d_ff=f_c)
    count = models.count_params(small).total
    assert models.count_params(config).total == total
    shapes = jax.eval_shape(models.Transformer(small).init, jax.random.key(0), TOKENS)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    square = config.n_layers * d_c * (config.n_heads * config.d_head - d_c)
    assert count - square == paper_kept
    assert 100 * (1 - paper_kept / total) == pytest.approx(paper_removed, abs=0.05)
    assert 100 * (1 - count / total) == pytest.approx(removed, abs=0.05)


@pytest.mark.parametrize(
    ("widths", "trainable"), [((1344, 5376), 3.23e9), ((960, 3840), 2.24e9), ((448, 1728), 0.97e9)]
)
def test_projections_of_llama_have_the_size_that_the_paper_s_digest_derives(widths, trainable):
    """Trainable parameters for Llama-3.2-1B are those of papers/004 section 4; merged, those of the small model."""
    d_model, d_ff = widths
    kept = models.Selection(np.arange(d_model), np.tile(np.arange(d_ff), (16, 1)))
    base = jax.eval_shape(models.Transformer(LLAMA_1B).init, jax.random.key(0), TOKENS)["params"]
    cost = merge_cost(jax.eval_shape(lambda params: models.projected(params, kept), base), base)
    assert cost.trainable == pytest.approx(trainable, rel=0.01)
    assert cost.merged == models.count_params(models.small_config(LLAMA_1B, d_model=d_model, d_ff=d_ff)).total
    # papers/004 section 4: 1.0 to 1.2 % of 6 N B at 524,288 tokens a step; less where the cheaper order is taken.
    assert 0.007 < (cost.forward + cost.backward) / (6 * cost.merged * 524_288) < 0.012


@pytest.mark.parametrize(
    "changes",
    [
        dict(norm_place="both", window=4, layer_pattern="lg", embed_scale=32**0.5, position="rotary"),
        dict(norm_place="after", qk_norm_over="width", position="rotary"),
        dict(position="learned", max_length=16, norm="layer", bias="all", gated_mlp=False, qk_norm=False, n_kv_heads=0),
    ],
    ids=["as gemma3", "as olmo2", "as gpt2"],
)
def test_imported_architectures_are_pruned_by_selection(changes):
    """One-hot projections merge to the hard-pruned model, whose arrays have the small shapes; svd is refused."""
    config = dataclasses.replace(CONFIG, **changes)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), TOKENS)["params"]
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    merged, pruned = both(params)
    jax.tree.map(np.testing.assert_array_equal, merged, pruned)
    small = models.small_config(config, d_model=8, d_ff=16)
    wanted = jax.eval_shape(models.Transformer(small).init, jax.random.key(0), TOKENS)["params"]
    assert jax.tree.map(jnp.shape, pruned) == jax.tree.map(jnp.shape, wanted)
    assert models.count_params(small).total == sum(x.size for x in jax.tree.leaves(pruned))
    with pytest.raises(InputError, match="start='svd' was given for a model with (norms after|LayerNorm)"):
        models.projected(params, KEPT, start="svd")


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.75, 1.0])
def test_widths_keep_the_share_and_the_aspect(keep):
    """No other multiple of 8 is nearer to the share, and the aspect is the large model's."""
    found = models.widths(LLAMA_1B, keep=keep)
    assert found.d_model % 8 == 0
    assert found.d_ff == 4 * found.d_model

    def error(d_model):
        small = models.small_config(LLAMA_1B, d_model=d_model, d_ff=4 * d_model)
        return abs(models.count_params(small).total / models.count_params(LLAMA_1B).total - keep)

    assert error(found.d_model) <= min(error(d) for d in range(8, 2049, 8))
    assert found.kept == pytest.approx(keep, abs=0.005)


def test_widths_of_another_aspect():
    """With an aspect of 3 (Minitron's for Llama-3.1-8B), the share gives the paper's shape."""
    assert models.widths(LLAMA_8B, keep=1 - 0.676, aspect=3.0)[:2] == (2160, 6480)


@pytest.mark.thinned(1, "compiles a model for each setting")
@pytest.mark.parametrize("variant", ["relative", "tied", "plain", "biases"])
def test_projections_start_at_the_hard_pruned_model(variant):
    """Merged one-hot projections equal the hard-pruned model bit for bit, and that equals plain indexing."""
    config = dataclasses.replace(
        CONFIG, tie_embeddings=variant == "tied", gated_mlp=variant != "plain", activation="relu"
    )
    params = trained_like(config, biases=variant == "biases")
    merged, pruned = both(params)
    jax.tree.map(np.testing.assert_array_equal, merged, pruned)
    d, f = KEPT
    layers = params["layers"]
    for i in range(2):
        up = np.asarray(layers["mlp"]["up"]["kernel"])[i][d][:, f[i]]
        np.testing.assert_array_equal(pruned["layers"]["mlp"]["up"]["kernel"][i], up)
        down = np.asarray(layers["mlp"]["down"]["kernel"])[i][f[i]][:, d]
        np.testing.assert_array_equal(pruned["layers"]["mlp"]["down"]["kernel"][i], down)
        out = np.asarray(layers["attention"]["out"]["kernel"])[i][:, d]
        np.testing.assert_array_equal(pruned["layers"]["attention"]["out"]["kernel"][i], out)
        if variant == "biases":
            bias = np.asarray(layers["mlp"]["up"]["bias"])[i][f[i]]
            np.testing.assert_array_equal(pruned["layers"]["mlp"]["up"]["bias"][i], bias)
    np.testing.assert_array_equal(pruned["embed"]["embedding"], np.asarray(params["embed"]["embedding"])[:, d])
    if variant == "biases":
        np.testing.assert_array_equal(pruned["final_norm"]["bias"], np.asarray(params["final_norm"]["bias"])[d])
        np.testing.assert_array_equal(
            pruned["layers"]["attention"]["q"]["bias"], params["layers"]["attention"]["q"]["bias"]
        )
    else:
        ours, theirs = (logits(tree, config, d_model=8, d_ff=16) for tree in (merged, pruned))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert ours.shape == (2, 12, 40)


def test_which_matrices_have_which_projections():
    """Heads and vocabulary are not projected, and with w_a=False there are only projections."""
    base = jax.eval_shape(models.Transformer(CONFIG).init, jax.random.key(0), TOKENS)["params"]
    tree = jax.eval_shape(lambda params: models.projected(params, KEPT, w_a=False), base)
    attention, mlp = tree["layers"]["attention"], tree["layers"]["mlp"]
    assert {name: set(attention[name]["kernel"]) for name in "q k v out".split()} == {
        "q": {"p_in"},
        "k": {"p_in"},
        "v": {"p_in"},
        "out": {"p_out"},
    }
    assert all(set(mlp[name]["kernel"]) == {"p_in", "p_out"} for name in ("up", "gate", "down"))
    assert set(tree["embed"]["embedding"]) == {"p_out"}
    assert set(tree["unembed"]["kernel"]) == {"p_in"}
    assert mlp["down"]["kernel"]["p_in"].shape == (2, 64, 16)
    with_w_a = jax.eval_shape(lambda params: models.projected(params, KEPT), base)
    assert with_w_a["unembed"]["kernel"]["w_a"].shape == (8, 40)
    assert with_w_a["layers"]["attention"]["k"]["kernel"]["w_a"].shape == (2, 8, 16)


VARIANTS = {
    "relative": {},
    "rotary": dict(position="rotary", qk_norm=False, n_kv_heads=0),
    "plain MLP, partial rotary": dict(gated_mlp=False, activation="gelu", position="rotary", rotary_fraction=0.5),
    "biases": dict(bias="all", position="rotary"),
    "parallel": dict(bias="qkv", parallel_residual=True, position="rotary", qk_norm=False),
    "eps": dict(norm_eps=1e-2, scan_layers=False),
}
EVERYTHING = models.Selection(np.arange(32), np.tile(np.arange(64), (2, 1)))


def uneven(config):
    """Returns parameters whose norms have gains exp(0.3 n), n normal."""
    rng, params = np.random.default_rng(3), trained_like(config)
    for norm in (params["layers"]["attention_norm"], params["layers"]["mlp_norm"], params["final_norm"]):
        norm["scale"] = np.exp(0.3 * rng.normal(size=norm["scale"].shape)).astype(np.float32)
    return params


@pytest.mark.thinned(1, "compiles a model for each setting")
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_svd_start_of_full_width_computes_the_large_model(variant, tie_embeddings):
    """With all directions nothing is lost, for any gains, with tied or separate embeddings."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings, **VARIANTS[variant])
    params = uneven(config)
    merged = jax.jit(lambda params: merge(models.projected(params, EVERYTHING, start="svd"), params))(params)
    found = logits(merged, config, d_model=32, d_ff=64, untie=True)
    np.testing.assert_allclose(found, logits(params, config), atol=1e-4)
    assert np.abs(merged["embed"]["embedding"] - params["embed"]["embedding"]).max() > 0.1


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_svd_start_loses_nothing_of_a_stream_that_lives_in_fewer_dimensions(tie_embeddings):
    """If the residual stream uses 8 of 32 directions, 8 dimensions give the same logits; a selection does not."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings)
    params = uneven(config)
    directions = np.linalg.qr(np.random.default_rng(2).normal(size=(32, 8)))[0].astype(np.float32)
    for part in (params["embed"], params["layers"]["attention"]["out"], params["layers"]["mlp"]["down"]):
        part.update({name: x @ directions @ directions.T for name, x in part.items()})
    kept = models.Selection(np.arange(8), np.tile(np.arange(64), (2, 1)))
    wanted = logits(params, config)
    merged = jax.jit(lambda params: merge(models.projected(params, kept, start="svd"), params))(params)
    found = logits(merged, config, d_model=8, d_ff=64, untie=True)
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # the norms add 1e-6 to a mean over fewer numbers
    assert np.abs(logits(models.hard_pruned(params, kept), config, d_model=8, d_ff=64) - wanted).max() > 0.1


def test_an_untied_output_layer_is_counted():
    """The untied config has the parameters of its tree, `widths` counts them, and keep=1 removes none."""
    config = dataclasses.replace(CONFIG, tie_embeddings=True)
    base = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), TOKENS)["params"]
    shapes = jax.eval_shape(lambda params: merge(models.projected(params, KEPT, start="svd"), params), base)
    small = models.small_config(config, d_model=8, d_ff=16, untie=True)
    wanted = jax.eval_shape(models.Transformer(small).init, jax.random.key(0), TOKENS)["params"]
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: x.shape, wanted)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == models.count_params(small).total
    total = models.count_params(config).total
    whole = models.widths(config, keep=1, untie=True)
    assert whole[:2] == (32, 64) and whole.kept == pytest.approx(1 + 40 * 32 / total)
    large = dataclasses.replace(LLAMA_1B, tie_embeddings=True)
    tied, untied = (models.widths(large, keep=0.5, untie=untie) for untie in (False, True))
    assert untied.d_model < tied.d_model and untied.kept == pytest.approx(0.5, abs=0.005)


def test_wrong_inputs_say_what_to_do():
    """Errors say what was given and what was expected."""
    with pytest.raises(InputError, match=r"keep=1\.5 was given; expected the share"):
        models.widths(CONFIG, keep=1.5)
    with pytest.raises(InputError, match=r"narrowest model \(d_model=16, d_ff=32\).*smaller multiple than 16"):
        models.widths(CONFIG, keep=0.1, multiple=16)
    with pytest.raises(InputError, match="d_model=64 was given for a model with d_model=32; expected 1 to 32"):
        models.small_config(CONFIG, d_model=64, d_ff=64)
    with pytest.raises(InputError, match="start='svp' was given; expected one of one_hot, svd"):
        models.projected({}, KEPT, start="svp")
    with pytest.raises(InputError, match="LayerNorm.*Use start='one_hot'"):
        models.projected(trained_like(CONFIG, biases=True), KEPT, start="svd")
    with pytest.raises(InputError, match="mlp/up/weights_alpha was given.*packed and unpacked"):
        models.hard_pruned({"layers": {"mlp": {"up": {"weights_alpha": jnp.ones((2, 1))}}}}, KEPT)
