"""Imported Hugging Face models give the logits of `transformers`, and exported models are equal to the originals."""

import dataclasses
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.exact import check_exactable
from compressed_lm.models import Transformer, TransformerConfig, count_params, huggingface, init_cache
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors

SIZES = dict(
    vocab_size=131,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=24,
)
CASES = {
    "llama, grouped queries, tied": ("llama", dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "llama, heads wider than the model": (
        "llama",
        dict(head_dim=16, num_key_value_heads=1, rope_theta=5e5, rms_norm_eps=1e-3, hidden_act="gelu_pytorch_tanh"),
    ),
    "llama, biases": ("llama", dict(attention_bias=True, mlp_bias=True, hidden_act="relu")),
    "llama 3, layers in a loop": ("llama", dict(rope_scaling=LLAMA3, num_hidden_layers=4)),
    "gpt_neox, parallel": ("gpt_neox", dict(rotary_pct=0.25, layer_norm_eps=1e-3)),
    "gpt_neox, in turn, tied": (
        "gpt_neox",
        dict(rotary_pct=0.5, use_parallel_residual=False, tie_word_embeddings=True),
    ),
    # Widths that the heads do not divide, as in width-pruned models.
    "mistral": ("mistral", dict(hidden_size=30, num_key_value_heads=2, sliding_window=None, head_dim=6)),
    "qwen2": ("qwen2", dict(hidden_size=30, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(hidden_size=30, num_key_value_heads=2, head_dim=10)),
}
IDS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 60))
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


def params_from(shapes, read, config):
    """Returns the tree of parameters of a checkpoint."""
    return flax.traverse_util.unflatten_dict(dict(huggingface.leaves_from(shapes, read, config)), sep="/")


def tensors_of(leaves, config):
    """Returns the tensors of a checkpoint by name; their shapes are those that were announced."""
    made = {}
    for name, shape, make in huggingface.tensors_of({k: x.shape for k, x in leaves.items()}, leaves.get, config):
        made[name] = make()
        assert made[name].shape == shape
    return made


@pytest.mark.thinned(2, "compiles a model for each setting")
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_and_come_back(case, tmp_path):
    """Logits of a random model are those of `transformers`, to 1e-5 after import and to 1e-6 after export.

    The export has several files, no missing tensor and no extra tensor.
    """
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    kind, settings = CASES[case]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **SIZES | settings))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
        expected = theirs.eval()(torch.tensor(IDS)).logits.numpy()
    theirs.save_pretrained(tmp_path)

    config, tensors = (
        huggingface.config_from(json.loads((tmp_path / "config.json").read_text())),
        Tensors(tmp_path),
    )
    params = params_from(tensors.shapes, tensors.__getitem__, config)
    found = jax.jit(Transformer(config).apply)({"params": params}, jnp.asarray(IDS))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.abs(expected).max() > 1  # so that 1e-5 is a strict bound
    assert count_params(config).total == sum(p.numel() for p in theirs.parameters())

    out = tmp_path / "back"
    out.mkdir()
    (out / "config.json").write_text(json.dumps(huggingface.config_of(config, max_length=64, eod_id=2)))
    assert len(write_tensors(out, tensors_of(by_name(params), config), max_bytes=20_000)) > 3
    back, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert back.config.tie_word_embeddings == theirs.config.tie_word_embeddings
    assert type(back) is type(theirs)
    with torch.no_grad():
        np.testing.assert_allclose(back.eval()(torch.tensor(IDS)).logits.numpy(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "values, n_params",
    [
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
    """Llama-3.2-1B (papers/004) and Pythia-70m have their published numbers of parameters."""
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
    ],
)
def test_shapes_and_parameters_come_back(config, kind):
    """A config written as config.json and read again is equal, and its parameters are the same bits."""
    assert huggingface.model_type(config) == kind
    params = made(config)
    tensors = tensors_of(by_name(params), config)
    found = huggingface.config_from(huggingface.config_of(config, max_length=64, eod_id=0))
    assert dataclasses.replace(found, scan_layers=False) == config
    back = params_from({name: x.shape for name, x in tensors.items()}, tensors.__getitem__, config)
    jax.tree.map(np.testing.assert_array_equal, back, params)
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
        (dict(model_type="mistral", sliding_window=16), "sliding_window=16"),
        (dict(model_type="qwen2", use_sliding_window=True), "a sliding window"),
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
