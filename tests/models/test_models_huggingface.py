"""Configurations and parameters are the same after a Hugging Face checkpoint; what does not fit is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.exact import check_exactable
from compressed_lm.models import Transformer, TransformerConfig, count_params, huggingface, init_cache
from compressed_lm.models.partitioning import by_name
from tests.models.huggingface_cases import GPT2, IDS, LINEAR, LLAMA3, SIZES, params_from, tensors_of

GEMMA_CONFIG = TransformerConfig(
    **dict(vocab_size=40, d_model=16, n_heads=4, d_head=8, d_ff=24, n_kv_heads=2, activation="gelu", position="rotary"),
    **dict(qk_norm=True, norm_place="both", embed_scale=4.0, attention_scale=0.25, window=4, layer_pattern="lg"),
    **dict(local_rope_theta=1e3, rope_theta=1e6, rope_scaling="linear(factor=8)", logit_softcap=30.0),
    **dict(tie_embeddings=True, scan_layers=False),
)
NEOX = TransformerConfig(
    vocab_size=40,
    d_model=16,
    n_heads=2,
    d_head=8,
    d_ff=24,
    gated_mlp=False,
    activation="gelu_erf",
    position="rotary",
    norm="layer",
    norm_eps=1e-5,
    bias="all",
    parallel_residual=True,
    rotary_fraction=0.5,
    scan_layers=False,
)
GPT2_CONFIG = dataclasses.replace(
    NEOX, position="learned", max_length=8, rotary_fraction=1.0, parallel_residual=False, activation="gelu"
)
LLAMA = TransformerConfig(
    vocab_size=40,
    d_model=16,
    n_heads=4,
    d_head=8,
    d_ff=24,
    n_kv_heads=2,
    activation="silu",
    position="rotary",
    scan_layers=False,
)


def made(config, seed=0):
    """Returns parameters with random norms and biases."""
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def test_tensors_are_read_one_at_a_time_after_all_checks():
    """Nothing is read before names and shapes are checked, and export reads each parameter once."""
    leaves = by_name(made(GPT2_CONFIG))
    tensors, log = tensors_of(leaves, GPT2_CONFIG), []
    shapes = {name: x.shape for name, x in tensors.items()}
    assert "transformer.h.1.attn.c_attn.weight" in shapes
    bare = {name.removeprefix("transformer."): name for name in shapes}  # as the published GPT-2
    bare_shapes = {name: shapes[usual] for name, usual in bare.items()}
    read = lambda name: (log.append(name), tensors[bare[name]])[1]  # noqa: E731
    with pytest.raises(InputError, match="lacks transformer.wpe.weight"):
        huggingface.leaves_from({k: v for k, v in bare_shapes.items() if k != "wpe.weight"}, read, GPT2_CONFIG)
    found = huggingface.leaves_from(bare_shapes | {"h.0.attn.bias": (1, 1, 8, 8)}, read, GPT2_CONFIG)
    assert log == []
    for path, leaf in found:
        np.testing.assert_array_equal(leaf, leaves[path])
    log.clear()
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    made_of = huggingface.tensors_of(shapes, lambda path: (log.append(path), leaves[path])[1], GPT2_CONFIG)
    assert sum(make().size for _, _, make in made_of) == sum(leaf.size for leaf in leaves.values())
    assert sorted(log) == sorted(leaves)


@pytest.mark.parametrize(
    "values, n_params",
    [
        (  # Gemma-3-270M: 170M of the embeddings and 100M of the blocks
            dict(
                model_type="gemma3_text",
                vocab_size=262144,
                hidden_size=640,
                intermediate_size=2048,
                num_hidden_layers=18,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=256,
                sliding_window=512,
            ),
            268_098_176,
        ),
        (dict(model_type="gpt2", vocab_size=50257, n_embd=768, n_layer=12, n_head=12, n_positions=1024), 124_439_808),
        (
            dict(
                model_type="llama",
                vocab_size=128256,
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=16,
                num_attention_heads=32,
                num_key_value_heads=8,
                head_dim=64,
                rms_norm_eps=1e-5,
                rope_theta=500000.0,
                rope_scaling=LLAMA3 | dict(factor=32.0, original_max_position_embeddings=8192),
                tie_word_embeddings=True,
            ),
            1_235_814_400,
        ),
        (
            dict(
                model_type="gpt_neox",
                vocab_size=50304,
                hidden_size=512,
                intermediate_size=2048,
                num_hidden_layers=6,
                num_attention_heads=8,
                rotary_pct=0.25,
                rotary_emb_base=10000,
                use_parallel_residual=True,
            ),
            70_426_624,
        ),
    ],
)
def test_published_models_have_their_published_sizes(values, n_params):
    """Published models have their published numbers of parameters."""
    assert count_params(huggingface.config_from(values)).total == n_params


@pytest.mark.parametrize(
    "config, kind",
    [
        (NEOX, "gpt_neox"),
        (dataclasses.replace(LLAMA, rope_scaling="llama3(factor=32,length=99)", tie_embeddings=True), "llama"),
        (dataclasses.replace(LLAMA, bias="all", activation="gelu"), "llama"),
        (dataclasses.replace(LLAMA, d_model=18, rope_theta=5e5), "mistral"),
        (dataclasses.replace(LLAMA, bias="qkv"), "qwen2"),
        (dataclasses.replace(LLAMA, qk_norm=True, n_kv_heads=0), "qwen3"),
        (dataclasses.replace(LLAMA, window=4), "mistral"),
        (dataclasses.replace(LLAMA, bias="qkv", window=4, layer_pattern="gl"), "qwen2"),
        (dataclasses.replace(LLAMA, rotary_fraction=0.5), "phi3"),
        (GPT2_CONFIG, "gpt2"),
        (dataclasses.replace(LLAMA, norm_place="after", qk_norm=True, qk_norm_over="width"), "olmo2"),
        (GEMMA_CONFIG, "gemma3_text"),
    ],
)
def test_shapes_and_parameters_come_back(config, kind):
    """A config written as config.json and read again is equal, and its parameters are the same."""
    assert huggingface.model_type(config) == kind
    params = made(config)
    tensors = tensors_of(by_name(params), config)
    found = huggingface.config_from(huggingface.config_of(config, max_length=64, eod_id=0))
    assert dataclasses.replace(found, scan_layers=False) == config
    back = params_from({name: x.shape for name, x in tensors.items()}, tensors.__getitem__, config)
    atol = 1e-7 if kind == "gemma3_text" else 0  # its scales are stored minus 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), back, params)
    assert sum(x.size for x in by_name(params).values()) == count_params(config).total


def test_one_token_at_a_time_is_as_all_at_once():
    """Parallel residuals, biases and partly rotated heads give the same logits with a cache."""
    params, ids = made(NEOX), jnp.asarray(IDS[:, :5] % NEOX.vocab_size)
    cache, step = init_cache(NEOX, 2, 5), jax.jit(lambda *x: Transformer(NEOX).apply(*x, method="step"))
    whole = jax.jit(Transformer(NEOX).apply)({"params": params}, ids)
    for i in range(5):
        logits, cache = step({"params": params}, ids[:, i], jnp.full(2, i), cache)
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_type="gpt_neo"), "the architecture 'gpt_neo' was given, which is not supported. Supported: llama"),
        (dict(model_type=None), "the architecture None was given.* Supported: llama, mistral"),
        (dict(hidden_size=None), "has no hidden_size. Restore the file"),
        (dict(hidden_act="quick_gelu"), "uses unsupported features: hidden_act='quick_gelu'"),
        (dict(rope_scaling=dict(rope_type="yarn", factor=4.0)), "rotary positions of type 'yarn'"),
        (dict(rope_scaling=dict(rope_type="llama3", factor=4.0)), "without high_freq_factor, low_freq_factor"),
        (dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
        (dict(quantization_config=dict(bits=4)), "quantised weights"),
        (dict(attention_bias=True), "attention_bias and mlp_bias that differ"),
        (dict(model_type="mamba"), "the architecture 'mamba' was given, which is not supported. Supported: llama"),
        (dict(model_type="GPT-NeoX"), "Did you mean gpt_neox"),
        (dict(model_type="qwen2", layer_types=["sliding_attention"] * 2), "sliding_attention, but no sliding_window"),
        (dict(model_type="qwen2", layer_types=["full_attention"]), "layer_types of 1 layers .num_hidden_layers=2"),
        (dict(model_type="qwen2", layer_types=["linear"] * 2), "layers of type linear .known: sliding_attention, full"),
        (
            dict(model_type="qwen2", use_sliding_window=True, max_window_layers="x"),
            "max_window_layers = .*a whole number",
        ),
        (dict(model_type="gemma3_text", use_bidirectional_attention=True), "use_bidirectional_attention"),
        (
            dict(model_type="gemma3_text", rope_parameters=dict(sliding_attention=LINEAR)),
            "'linear' in layers with a slid",
        ),
        (dict(model_type="gemma3", text_config=None), "has no vocab_size, hidden_size"),
        (dict(model_type="olmo2", attention_bias=True), "attention_bias"),
        (dict(model_type="phi3", rope_scaling=dict(type="su")), "'su', whose frequencies change with the length"),
        (dict(model_type="phi3", rope_scaling=LINEAR), "type 'linear' .known: default"),
        (dict(model_type="gpt2", **GPT2, scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (dict(model_type="gpt2", **GPT2, add_cross_attention=True), "add_cross_attention"),
        (dict(model_type="gpt2", **GPT2 | dict(n_head="4")), "n_head = .*; expected a whole number"),
        (dict(model_type="qwen3", attention_bias=True), "attention_bias"),
        (dict(model_type="gpt_neox", attention_bias=False), "attention_bias=false"),
    ],
)
def test_unsupported_features_are_refused(changes, message):
    """A checkpoint with unsupported features is refused, not read wrongly."""
    with pytest.raises(InputError, match=message):
        huggingface.config_from(dict(model_type="llama", **SIZES) | changes)


@pytest.mark.parametrize(
    "config, message",
    [
        (TransformerConfig(vocab_size=40), "as llama, the nearest.*position=relative .rotary is needed."),
        (dataclasses.replace(LLAMA, gated_mlp=False), "gated_mlp=False .True is needed."),
        (dataclasses.replace(LLAMA, parallel_residual=True), "parallel_residual=True .False is needed."),
        (dataclasses.replace(GEMMA_CONFIG, d_model=12), "as gemma3_text.*embed_scale=4 .the square root of d_model=12"),
        (dataclasses.replace(LLAMA, qk_norm=True, bias="qkv"), "as qwen2.*qk_norm=True .False is needed."),
        (dataclasses.replace(LLAMA, activations="int(b=8)"), "activations=int"),
        (dataclasses.replace(LLAMA, bias="all", d_model=18), "d_model=18 .a multiple of n_heads=4 is needed."),
        (dataclasses.replace(NEOX, d_head=4), "as gpt_neox.*n_heads . d_head = 8 .d_model=16 is needed."),
        (dataclasses.replace(NEOX, n_kv_heads=1, bias="none"), "n_kv_heads=1.*bias=none .all is needed."),
    ],
)
def test_shapes_that_no_architecture_has_are_refused(config, message):
    """The error names the nearest architecture and all reasons."""
    with pytest.raises(InputError, match=message):
        huggingface.model_type(config)


def test_tensors_that_do_not_fit_are_reported():
    """Errors name a tensor that is missing, unknown or of another shape, and a second head of a tied model."""
    tensors = tensors_of(by_name(made(LLAMA)), LLAMA)

    def read(changes, config=LLAMA):
        changed = {name: x for name, x in (tensors | changes).items() if x is not None}
        return params_from({name: x.shape for name, x in changed.items()}, changed.__getitem__, config)

    with pytest.raises(InputError, match="lacks model.layers.1.mlp.up_proj.weight. Its files and its config.json"):
        read({"model.layers.1.mlp.up_proj.weight": None})
    with pytest.raises(InputError, match="has the unknown tensors model.layers.0.self_attn.q_proj.bias"):
        read({"model.layers.0.self_attn.q_proj.bias": np.zeros(32)})
    with pytest.raises(InputError, match=r"config.json: model.norm.weight \(17,\), expected \(16,\)"):
        read({"model.norm.weight": np.zeros(17)})
    tied = dataclasses.replace(LLAMA, tie_embeddings=True)
    with pytest.raises(InputError, match="has tie_word_embeddings = true, but lm_head.weight differs"):
        read({}, tied)
    read({"lm_head.weight": tensors["model.embed_tokens.weight"]}, tied)
    read({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4)})  # older versions stored it


def test_such_models_do_not_become_integers():
    """Exact inference refuses unsupported norms, biases, grouped heads and parallel residuals."""
    config = TransformerConfig(vocab_size=264, norm="layer", bias="all", parallel_residual=True, n_kv_heads=2)
    with pytest.raises(InputError, match="norm=layer.*bias=all, parallel_residual=True.*n_kv_heads=2"):
        check_exactable(config, 64)
    with pytest.raises(InputError, match=r"norm_place=after .*window=4 \(0 is needed\); embed_scale=2.0"):
        check_exactable(TransformerConfig(vocab_size=264, norm_place="after", window=4, embed_scale=2.0), 64)


@pytest.mark.parametrize("kind", [kind for kind in huggingface.ARCHITECTURES if kind != "gpt2"])
def test_missing_fields_have_the_defaults_of_transformers(kind):
    """Without its optional fields, a config.json means the same as in `transformers`; a null counts as missing."""
    transformers = pytest.importorskip("transformers")
    sizes = SIZES | dict(hidden_size=256, num_attention_heads=32)
    theirs = transformers.AutoConfig.for_model(kind, **sizes, **(dict(pad_token_id=0) if kind == "phi3" else {}))
    bare = huggingface.config_from(dict(model_type=kind, **sizes))
    nulls = dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "rope_theta", "attention_bias", "rotary_pct", "hidden_act")
    )
    nulls |= dict.fromkeys(("use_parallel_residual", "tie_word_embeddings", "rope_parameters", "rope_scaling"))
    assert (
        bare
        == huggingface.config_from(theirs.to_dict())
        == huggingface.config_from(nulls | dict(model_type=kind, **sizes))
    )
