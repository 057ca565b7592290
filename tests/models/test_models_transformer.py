"""The model is causal, its parameter counts are right, and steps with a cache equal the whole pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models
from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig

SMALL = dict(vocab_size=16, d_model=12, n_layers=2, n_heads=3, d_head=4, d_ff=20, n_buckets=6, max_distance=8)
VARIANTS = {
    "relative": TransformerConfig(**SMALL),
    "rotary_plain_tied": TransformerConfig(
        **SMALL, position="rotary", gated_mlp=False, activation="gelu", tie_embeddings=True
    ),
    "grouped_normed": TransformerConfig(
        **SMALL | dict(n_heads=4), n_kv_heads=2, qk_norm=True, position="rotary", activation="silu"
    ),
    "relative_windows": TransformerConfig(**SMALL, window=3, layer_pattern="lg"),
    "gemma3": TransformerConfig(
        **SMALL | dict(n_layers=3, n_heads=4),
        n_kv_heads=2,
        qk_norm=True,
        position="rotary",
        local_rope_theta=100.0,
        rope_scaling="linear(factor=4)",
        window=3,
        layer_pattern="llg",
        norm_place="both",
        embed_scale=12**0.5,
        attention_scale=0.3,
        logit_softcap=9.0,
        tie_embeddings=True,
    ),
    "gpt2": TransformerConfig(
        **SMALL, position="learned", max_length=256, norm="layer", bias="all", gated_mlp=False, activation="gelu"
    ),
    "olmo2_window": TransformerConfig(
        **SMALL, position="rotary", norm_place="after", qk_norm=True, qk_norm_over="width", window=5
    ),
}


@pytest.fixture(autouse=True)
def no_silent_broadcast():
    """Makes operations on arrays of different rank an error."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def config(request):
    return request.param


def random_params(config):
    """Returns parameters far from their initial values, so that every term of the model has a visible effect."""
    shapes = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.4, s.shape), s.dtype), shapes)


def names(params):
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params["params"])}


def test_parameter_tree_is_the_documented_one():
    """Names and shapes of parameters are fixed, because other modules read parameters by name."""
    block = {
        "attention_norm/scale": (12,),
        "attention/q/kernel": (12, 12),
        "attention/k/kernel": (12, 12),
        "attention/v/kernel": (12, 12),
        "attention/out/kernel": (12, 12),
        "attention/relative_bias/embedding": (6, 3),
        "mlp_norm/scale": (12,),
        "mlp/up/kernel": (12, 20),
        "mlp/gate/kernel": (12, 20),
        "mlp/down/kernel": (20, 12),
    }
    expected = {f"layers/{name}": (2, *shape) for name, shape in block.items()}
    expected |= {"embed/embedding": (16, 12), "final_norm/scale": (12,), "unembed/kernel": (12, 16)}
    assert names(random_params(VARIANTS["relative"])) == expected
    absent = ("relative_bias", "gate", "unembed", "q_norm")
    assert not any(part in name for name in names(random_params(VARIANTS["rotary_plain_tied"])) for part in absent)
    grouped = names(random_params(VARIANTS["grouped_normed"]))
    assert grouped["layers/attention/k/kernel"] == (2, 12, 8) and grouped["layers/attention/k_norm/scale"] == (2, 4)


def test_logits_match_a_plain_numpy_forward_pass():
    """The model computes pre-norm, RMSNorm, gated ReLU, T5 bias and scaled scores as plain NumPy does."""
    config, params = VARIANTS["relative"], random_params(VARIANTS["relative"])
    p = jax.tree.map(np.asarray, params["params"])
    inputs = np.array([3, 0, 7, 7, 15, 2, 9, 1, 4, 4])
    buckets = models.relative_buckets(10, n_buckets=6, max_distance=8)

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    x = p["embed"]["embedding"][inputs]
    for i in range(2):
        layer = jax.tree.map(lambda x: x[i], p["layers"])  # noqa: B023
        attention, mlp = layer["attention"], layer["mlp"]
        h = norm(x, layer["attention_norm"]["scale"])
        q, k, v = ((h @ attention[name]["kernel"]).reshape(10, 3, 4) for name in "qkv")
        mixed = np.zeros_like(q)
        for head in range(3):
            for query in range(10):
                bias = attention["relative_bias"]["embedding"][buckets[query - np.arange(query + 1)], head]
                scores = k[: query + 1, head] @ q[query, head] / np.sqrt(4) + bias
                weights = np.exp(scores - scores.max())
                mixed[query, head] = weights / weights.sum() @ v[: query + 1, head]
        x = x + mixed.reshape(10, 12) @ attention["out"]["kernel"]
        h = norm(x, layer["mlp_norm"]["scale"])
        hidden = h @ mlp["up"]["kernel"] * np.maximum(h @ mlp["gate"]["kernel"], 0)
        x = x + hidden @ mlp["down"]["kernel"]
    expected = norm(x, p["final_norm"]["scale"]) @ p["unembed"]["kernel"]
    np.testing.assert_allclose(jax.jit(models.Transformer(config).apply)(params, inputs[None])[0], expected, atol=1e-4)


@pytest.mark.slow("compiles a model for each setting")
def test_no_logit_depends_on_a_later_token(config):
    """The gradient of logits i with respect to the embedded token j is zero exactly if j > i."""
    params, model, length = random_params(config), models.Transformer(config), 7

    def logits(table):  # one vocabulary row per position, so a row's gradient is a position's gradient
        changed = {"params": params["params"] | {"embed": {"embedding": table}}}
        return model.apply(changed, jnp.arange(length)[None])[0]

    model_config = config
    if config.tie_embeddings:  # a tied table also affects the logits through the output layer
        model_config = TransformerConfig(**{**vars(config), "tie_embeddings": False})
        model, params = models.Transformer(model_config), random_params(model_config)
    jacobian = jax.jit(jax.jacrev(logits))(params["params"]["embed"]["embedding"])  # [L, V, V, D]
    reach = np.abs(np.asarray(jacobian)).max(axis=(1, 3))[:, :length]
    assert (reach[np.triu_indices(length, 1)] == 0).all()
    assert (reach[np.tril_indices(length)] > 1e-6).all()


def test_queries_share_keys_and_values_in_order():
    """Grouped-query attention is attention with each key and value head repeated for its queries."""
    grouped = VARIANTS["grouped_normed"]
    params = random_params(grouped)
    full = TransformerConfig(**{**vars(grouped), "n_kv_heads": 0})
    repeated = jax.tree.map(lambda x: x, params)
    for name in "kv":
        kernel = params["params"]["layers"]["attention"][name]["kernel"].reshape(2, 12, 2, 4)
        repeated["params"]["layers"]["attention"][name]["kernel"] = jnp.repeat(kernel, 2, axis=2).reshape(2, 12, 16)
    inputs = jnp.arange(9)[None]
    expected = models.Transformer(full).apply(repeated, inputs)
    np.testing.assert_allclose(models.Transformer(grouped).apply(params, inputs), expected, atol=1e-5)


@pytest.mark.thinned(1, "compiles a model for each setting")
@pytest.mark.parametrize("length", [64, 96, 256])
def test_attention_chunked_is_attention(config, length):
    """Attention in chunks, of even or uneven lengths, gives the logits of one computation within 1e-4."""
    params, inputs = random_params(config), np.random.default_rng(3).integers(0, 16, (2, length))
    apply = lambda: models.Transformer(config).apply(params, inputs)  # noqa: E731
    whole, smallest = apply(), models.layers.SMALLEST_CHUNK
    models.layers.SMALLEST_CHUNK = length
    try:
        np.testing.assert_allclose(whole, apply(), atol=1e-4)
    finally:
        models.layers.SMALLEST_CHUNK = smallest


def test_chunks_of_a_bias_pass_their_gradients_to_its_rows():
    """The gradient of the chunks of a bias [H, L, L] is that of plain slices, bit for bit."""
    bias = jnp.zeros((2, 12, 12))
    slices = lambda x: [x[:, last - 4 : last, :last] for last in (4, 8, 12)]  # noqa: E731
    expected, plain = jax.vjp(slices, bias)
    found, chunked = jax.vjp(lambda x: models.layers._chunks_of_rows(x, 4), bias)
    gradients = [jax.random.normal(jax.random.key(i), chunk.shape) for i, chunk in enumerate(expected)]
    assert [chunk.shape for chunk in found] == [chunk.shape for chunk in expected]
    np.testing.assert_array_equal(chunked(gradients)[0], plain(gradients)[0])


def loss_and_gradient(config, params):
    """Returns (a scalar of the logits, its gradient), compiled."""
    inputs = np.random.default_rng(2).integers(0, 16, (2, 9))
    loss = lambda params: jnp.sum(jnp.sin(models.Transformer(config).apply(params, inputs)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float32", dict(scan_layers=False)),
        ("float32", dict(remat="dots")),
        ("float32", dict(remat="full")),
        ("bfloat16", dict(scan_layers=False, remat="full")),
    ],
)
def test_how_it_is_computed_does_not_change_the_gradient(config, dtype, changes):
    """Unrolled equals scanned, and recomputed equals stored, to 1e-5 of the gradient in float32."""
    params = random_params(config)
    loss, gradient = loss_and_gradient(TransformerConfig(**{**vars(config), "dtype": dtype}), params)
    other = loss_and_gradient(TransformerConfig(**{**vars(config), "dtype": dtype, **changes}), params)
    tolerance = 1e-5 if dtype == "float32" else 0.03
    assert float(other[0]) == pytest.approx(float(loss), abs=20 * tolerance)
    size = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    jax.tree.map(lambda a, b: np.testing.assert_array_less(np.abs(a - b), tolerance * size), other[1], gradient)


@pytest.mark.slow("compiles a model for each setting")
def test_remat_keeps_less(config):
    """The policies take effect: the backward pass of "full" computes more than "dots", and "dots" more than "none"."""

    def flops(remat):
        inputs = jnp.zeros((1, 9), jnp.int32)
        model = models.Transformer(TransformerConfig(**{**vars(config), "remat": remat, "scan_layers": False}))
        gradient = jax.jit(jax.grad(lambda params: jnp.sum(model.apply(params, inputs) ** 2)))
        return gradient.lower(random_params(config)).compile().cost_analysis()["flops"]

    assert flops("none") < flops("dots") < flops("full")


@pytest.mark.slow("compiles a model for each setting")
def test_step_with_a_cache_equals_the_whole_pass(config):
    """Batch slots at different positions, one of them restarted, give the logits of the whole pass."""
    model, params, length = models.Transformer(config), random_params(config), 10
    tokens = np.random.default_rng(1).integers(0, 16, (4, length))
    whole = jax.jit(model.apply)(params, tokens)
    # Slot 0 runs from the start, slot 1 from time 3, slot 2 gets another row of tokens at time 6.
    step = jax.jit(lambda *args: model.apply(params, *args, method=model.step))
    cache = models.init_cache(config, 3, length)
    rows = lambda t: [0, 1, 2 if t < 6 else 3]  # noqa: E731
    positions = lambda t: [t, max(t - 3, 0), t if t < 6 else t - 6]  # noqa: E731
    for t in range(length):
        inputs = tokens[rows(t), positions(t)]
        logits, cache = step(inputs, jnp.array(positions(t)), cache)
        np.testing.assert_allclose(logits, whole[np.array(rows(t)), np.array(positions(t))], atol=1e-4)


@pytest.mark.slow("compiles a model for each setting")
def test_vectors_before_the_tokens_are_read_like_embeddings(config):
    """Embeddings of the first tokens, given as prefix vectors, give the logits of those tokens; others do not."""
    params, model = random_params(config), models.Transformer(config)
    tokens = jax.random.randint(jax.random.key(1), (2, 7), 0, 16)
    whole = model.apply(params, tokens)
    vectors = params["params"]["embed"]["embedding"][tokens[:, :3]] * config.embed_scale
    for length in (4, 0):
        logits = model.apply(params, tokens[:, 3 : 3 + length], prefix=vectors)
        np.testing.assert_allclose(logits, whole[:, 2 : 3 + length], rtol=1e-5, atol=1e-5)
    assert np.abs(model.apply(params, tokens[:, 3:], prefix=vectors[::-1]) - whole[:, 2:]).max() > 0.1
    step = jax.jit(lambda *given: model.apply(params, *given, prefix=vectors, method="step"))
    cache = models.init_cache(config, 2, 7)
    for i in range(7):
        logits, cache = step(tokens[:, i] if i >= 3 else tokens[:, i] * 0, jnp.full(2, i), cache)
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-4, atol=1e-4)


@pytest.mark.slow("compiles a model for each setting")
def test_bfloat16_computes_close_to_float32_and_returns_float32_logits():
    """The type of products is a setting; parameters and logits stay float32."""
    low = models.Transformer(TransformerConfig(**SMALL, dtype="bfloat16"))
    params = jax.tree.map(lambda x: x / 2, random_params(low.config))
    initial = jax.eval_shape(low.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    inputs = jnp.arange(8)[None]
    logits = jax.jit(low.apply)(params, inputs)
    assert logits.dtype == jnp.float32
    expected = jax.jit(models.Transformer(VARIANTS["relative"]).apply)(params, inputs)
    error = np.abs(logits - expected).max()
    assert 1e-4 < error < 0.05  # below 1e-4, nothing was computed in bfloat16


def test_param_count_equals_the_arrays(config):
    """The computed count equals the size of the parameter tree, and its embedding part that of the two tables."""
    sizes = {name: np.prod(shape) for name, shape in names(random_params(config)).items()}
    counts = models.count_params(config)
    assert counts.total == sum(sizes.values())
    tables = ("embed/", "unembed/", "positions/")
    assert counts.embedding == sum(n for name, n in sizes.items() if name.startswith(tables))
    assert counts.non_embedding == counts.total - counts.embedding


@pytest.mark.parametrize(
    ("size", "millions"), [("3m", 3.15), ("25m", 25.2), ("113m", 113.2), ("403m", 402.7), ("2b", 1610.6)]
)
def test_paper_sizes(size, millions):
    """The named sizes have the paper's numbers of parameters without embeddings (norms and biases add under 0.2 %)."""
    config = models.model_config(size, 256)
    assert models.count_params(config).non_embedding / 1e6 == pytest.approx(millions, rel=2e-3)


def test_flops_per_token_with_and_without_softmax():
    """FLOPs are twice the non-embedding parameters, plus the output product with `softmax`."""
    config = VARIANTS["relative"]
    assert models.flops_per_token(config, softmax=False) == 2 * models.count_params(config).non_embedding
    assert models.flops_per_token(config, softmax=True) - models.flops_per_token(config, softmax=False) == 2 * 16 * 12


def test_training_flops_count_what_an_update_needs():
    """Training FLOPs per token are 6 per weight, plus three times the two products of attention over half a row."""
    config = models.model_config("25m", 264)
    attention = 6 * 8 * 64 * 2 * 2 * 512 // 2
    expected = 3 * (2 * models.count_params(config).non_embedding + 2 * 264 * 512 + attention)
    assert models.training_flops_per_token(config, seq_len=512) == expected


def test_training_flops_count_only_the_window():
    """A local layer counts the keys within its window: for half the row, 3/4 of those of a whole layer."""
    config = models.model_config("25m", 264)
    local = dataclasses.replace(config, window=256, layer_pattern="lg")  # half of the layers
    whole, windows = (models.training_flops_per_token(c, seq_len=512) for c in (config, local))
    attention = 3 * 6 * 2 * 8 * 64 * 512
    assert whole - windows == attention // 2 // 4


def test_equal_patterns_have_one_form():
    """A layer pattern is stored in its shortest form, so that equal models have equal records."""
    made = lambda pattern: TransformerConfig(**SMALL | dict(n_layers=5), window=4, layer_pattern=pattern)  # noqa: E731
    assert made("lglgl") == made("lg") and made("lg").layer_pattern == "lg"
    assert made("lllll") == made("") and made("").layer_pattern == ""
    assert made("llllg").local_layers == (True, True, True, True, False)


def test_texts_longer_than_learned_positions_are_refused():
    """The whole pass and the cache refuse more positions than the model has learned, vectors included."""
    config = dataclasses.replace(VARIANTS["gpt2"], max_length=4)
    params, model = random_params(config), models.Transformer(config)
    model.apply(params, jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(InputError, match="A text of 5 tokens .* model with 4 learned positions; expected at most 4"):
        model.apply(params, jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(InputError, match="A text of 5 tokens"):
        model.apply(params, jnp.zeros((1, 2), jnp.int32), prefix=jnp.zeros((1, 3, 12)))
    with pytest.raises(InputError, match="A text of 5 tokens"):
        models.init_cache(config, 1, 5)


def test_relative_buckets_are_t5s():
    """Buckets equal T5's `relative_position_bucket` (bidirectional=False) for 8 buckets up to distance 16."""
    buckets = models.relative_buckets(20, n_buckets=8, max_distance=16)
    assert buckets.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7]
    assert models.relative_buckets(200, n_buckets=32, max_distance=128)[[15, 16, 18, 19, 112, 113, 199]].tolist() == [
        15, 16, 16, 17, 30, 31, 31,
    ]  # fmt: skip


def test_shift_right_and_vocabulary():
    """Inputs are the end-of-document id and the targets one place later; V includes that id."""
    assert models.shift_right(jnp.array([[5, 6, 7], [1, 2, 3]]), 9).tolist() == [[9, 5, 6], [9, 1, 2]]
    assert [models.model_vocab_size(v) for v in (255, 256, 4096, 65536)] == [256, 264, 4104, 65544]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(activation="swish"), "'swish' was given; expected one of relu, gelu, silu"),
        (dict(position="sinusoidal"), "expected one of relative, rotary, learned"),
        (dict(position="learned"), "max_length=0 was given with position='learned'; expected a positive max_length"),
        (dict(max_length=8), "max_length=8 was given with position='relative'"),
        (dict(window=4, layer_pattern="lx"), "layer_pattern='lx' was given, with 'x'; expected letters l"),
        (dict(layer_pattern="lg"), "were given without a window"),
        (dict(window=4, layer_pattern="ggl"), "has no local layer; set window=0"),
        (dict(window=4, local_rope_theta=100.0), "with position='relative'; expected rotary"),
        (dict(qk_norm_over="width"), "set qk_norm=True"),
        (dict(attention="cudnn", dtype="bfloat16", window=4), "attention='cudnn' was given with window=4"),
        (dict(dtype="float8"), "expected one of float32, bfloat16"),
        (dict(n_layers=0), "n_layers=0 was given; expected a whole number from 1 to 10,000"),
        (dict(position="rotary", d_head=5), "use an even d_head"),
        (dict(max_distance=3), "max_distance above n_buckets / 2"),
        (dict(n_kv_heads=2), "n_kv_heads=2 was given with n_heads=3; expected 0 .the same number. or a divisor"),
        (dict(attention="cudnn"), "expected dtype='bfloat16'"),
        (dict(remat="all"), "expected one of none, dots, full"),
    ],
)
def test_bad_config_is_refused(bad, message):
    """The error for an impossible shape says which field is wrong and what was expected."""
    with pytest.raises(InputError, match=message):
        TransformerConfig(**{**SMALL, **bad})


def test_unknown_size_lists_the_valid_ones():
    """The error for an unknown size lists the valid names."""
    with pytest.raises(InputError, match="'3M' was given; expected one of nano, .*, 2b"):
        models.model_config("3M", 256)
