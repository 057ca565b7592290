"""Random models of `transformers` of every supported architecture, and helpers that convert them."""

import json

import flax.traverse_util
import numpy as np
import pytest

from compressed_lm.models import huggingface

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
LINEAR = dict(rope_type="linear", factor=8.0)
GEMMA = dict(num_key_value_heads=2, head_dim=12, sliding_window=9, query_pre_attn_scalar=10)
GPT2 = dict(vocab_size=131, n_embd=32, n_layer=2, n_head=4, n_positions=64)
WINDOWS = dict(use_sliding_window=True, sliding_window=9, num_key_value_heads=2)
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
    "mistral, window": ("mistral", dict(num_key_value_heads=2, sliding_window=9, rope_scaling=LINEAR)),
    "qwen2": ("qwen2", dict(hidden_size=30, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)),
    "qwen2, windows, older, bfloat16": ("qwen2", dict(**WINDOWS, num_hidden_layers=4, max_window_layers=2)),
    "qwen3": ("qwen3", dict(hidden_size=30, num_key_value_heads=2, head_dim=10)),
    "qwen3, windows": (
        "qwen3",
        dict(**WINDOWS, head_dim=8, layer_types=["sliding_attention", "full_attention"], rope_theta=1e6),
    ),
    "gemma3_text, in a loop": ("gemma3_text", dict(**GEMMA, num_hidden_layers=7, final_logit_softcapping=20.0)),
    "gemma3_text, older, untied": (
        "gemma3_text",
        dict(**GEMMA, num_hidden_layers=3, sliding_window_pattern=2, rope_scaling=LINEAR, tie_word_embeddings=False),
    ),
    "gemma3_text, all global, bfloat16": ("gemma3_text", dict(**GEMMA, layer_types=["full_attention"] * 2)),
    # transformers reads attn_logit_softcapping and does not use it.
    "gemma3_text, all local": (
        "gemma3_text",
        dict(**GEMMA, layer_types=["sliding_attention"] * 2, attn_logit_softcapping=5.0),
    ),
    "gpt2": ("gpt2", dict()),
    "gpt2, untied, bfloat16": (
        "gpt2",
        dict(n_layer=4, n_inner=40, tie_word_embeddings=False, scale_attn_weights=False, activation_function="relu"),
    ),
    "olmo2": ("olmo2", dict(num_key_value_heads=2, num_hidden_layers=4)),
    "olmo2, older, tied, bfloat16": ("olmo2", dict(tie_word_embeddings=True, rope_theta=5e5)),
    "phi3, window": ("phi3", dict(num_key_value_heads=2, sliding_window=9, pad_token_id=0)),
    "phi3, older, partly rotated, tied": (
        "phi3",
        dict(partial_rotary_factor=0.5, tie_word_embeddings=True, num_hidden_layers=4, pad_token_id=0),
    ),
}
IDS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 60))


def older(values):
    """Returns the content of config.json as versions of `transformers` before 5 wrote it."""
    values = dict(values)
    rope = values.pop("rope_parameters")
    local = rope.get("sliding_attention")
    rope = dict(rope.get("full_attention", rope))
    if local is not None:
        values["rope_local_base_freq"] = local["rope_theta"]
    values["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        values["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    return values | {"rope_scaling": None if rope["rope_type"] == "default" else rope}


def pretrained(case, folder):
    """Writes a random model of `transformers`; returns it, in float32, and the logits of `IDS`."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    kind, settings = CASES[case]
    torch.manual_seed(0)
    sizes = GPT2 if kind == "gpt2" else SIZES
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **sizes | settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.4 if "proj" in name or "attn" in name else 0.3)
    model.to(torch.bfloat16 if "bfloat16" in case else torch.float32).save_pretrained(folder)
    if "older" in case:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(older(values)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model, model.eval()(torch.tensor(IDS)).logits.numpy()


def params_from(shapes, read, config, kind=None):
    """Returns the tree of parameters of a checkpoint."""
    return flax.traverse_util.unflatten_dict(dict(huggingface.leaves_from(shapes, read, config, kind=kind)), sep="/")


def tensors_of(leaves, config, kind=None):
    """Returns the tensors of a checkpoint by name; their shapes are those that were announced."""
    made = {}
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    for name, shape, make in huggingface.tensors_of(shapes, leaves.get, config, kind=kind):
        made[name] = make()
        assert made[name].shape == shape
    return made
