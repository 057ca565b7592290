"""GGUF files give the configuration and the tensors of the Hugging Face model that they were made from."""

import math
import os
import struct

import flax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer
from compressed_lm.models.gguf.checkpoint import GgufFile
from compressed_lm.models.gguf.config import config_of
from compressed_lm.models.gguf.header import Header, TensorPlace
from compressed_lm.models.gguf.metadata import Metadata
from compressed_lm.models.gguf.rope import llama3_scaling
from compressed_lm.models.gguf.special_ids import generation_of
from compressed_lm.models.gguf.tokenizer import tokenizer_files
from compressed_lm.models.huggingface import config_from, leaves_from

gguf = pytest.importorskip("gguf")

SIZES = {"block_count": 2, "context_length": 64, "embedding_length": 48, "feed_forward_length": 96}
HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5}


def write(path, architecture, keys, tensors, *, general=None):
    """Writes a GGUF file; tensors are arrays by name, or (bytes as an array, name of the type)."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**{f"{architecture}.{k}": v for k, v in keys.items()}, **(general or {})}.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value) if isinstance(value, int) else writer.add_float32(key, value)
    for name, tensor in tensors.items():
        kind = None
        if isinstance(tensor, tuple):
            tensor, kind = tensor[0], gguf.GGMLQuantizationType[tensor[1]]
        writer.add_tensor(name, np.ascontiguousarray(tensor), raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def llama_tensors(rng=None, *, vocab=32, hidden=48, ffn=96, layers=2, rows=48, kv_rows=24):
    """Random tensors of a small model of the architecture llama."""
    rng = rng or np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.attn_{n}.weight": (r, hidden) for n, r in dict(q=rows, k=kv_rows, v=kv_rows).items()}
        shapes |= {f"blk.{layer}.attn_output.weight": (hidden, rows), f"blk.{layer}.ffn_down.weight": (hidden, ffn)}
        shapes |= {f"blk.{layer}.ffn_{name}.weight": (ffn, hidden) for name in ("gate", "up")}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def llama_file(path, keys=None, general=None, tensors=None):
    keys = {k: v for k, v in (SIZES | HEADS | (keys or {})).items() if v is not None}
    return write(path, "llama", keys, llama_tensors() if tensors is None else tensors, general=general)


# Each architecture: class of transformers' configuration, its fields, the keys of llama.cpp, tokens of the check.
USUAL = dict(vocab_size=96, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
USUAL |= dict(num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
MODELS = {
    "llama": ("Llama", dict(rope_theta=1e5, tie_word_embeddings=True), {"rope.freq_base": 1e5}),
    "llama-3.1": (
        "Llama",
        dict(rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **LLAMA3), head_dim=32),
        {"rope.freq_base": 5e5, "attention.key_length": 32, "rope.dimension_count": 32},
    ),
    "llama-biases": ("Llama", dict(attention_bias=True, mlp_bias=True), {}),
    "mistral": ("Mistral", dict(sliding_window=None, head_dim=16), {"rope.dimension_count": 16}),
    "qwen2": ("Qwen2", dict(rope_theta=1e6), {"rope.freq_base": 1e6}),
    "qwen3": ("Qwen3", dict(head_dim=16, rope_theta=1e6), {"attention.key_length": 16, "rope.freq_base": 1e6}),
    "gemma3": (
        "Gemma3Text",
        dict(head_dim=16, num_hidden_layers=7, query_pre_attn_scalar=16, sliding_window=8, tie_word_embeddings=True),
        {"attention.key_length": 16, "rope.freq_base": 1e6, "attention.sliding_window": 8, "block_count": 7},
    ),
    "gemma3-global": (
        "Gemma3Text",
        dict(head_dim=16, query_pre_attn_scalar=16, layer_types=["full_attention"] * 2, final_logit_softcapping=30.0),
        {"attention.key_length": 16, "rope.freq_base": 1e6, "final_logit_softcapping": 30.0},
    ),
    "olmo2": ("Olmo2", dict(rope_theta=5e5), {"rope.freq_base": 5e5}),
    "phi3": ("Phi3", dict(pad_token_id=0, original_max_position_embeddings=64), {"rope.dimension_count": 12}),
    "phi3-partial": (
        "Phi3",
        dict(pad_token_id=0, original_max_position_embeddings=64, partial_rotary_factor=0.5, head_dim=12),
        {"attention.key_length": 12, "rope.dimension_count": 6},
    ),
    "gpt2": ("GPT2", {}, {"attention.layer_norm_epsilon": 1e-5}),
}
CLASSES = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}


def hugging_face_model(name):
    """Returns a small random model of transformers, all of whose parameters are random."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    family, fields, _ = MODELS[name]
    usual = dict(vocab_size=96, n_embd=48, n_layer=2, n_head=4, n_positions=64) if family == "GPT2" else USUAL
    config = getattr(transformers, f"{family}Config")(**(usual | fields), attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(family, f"{family}ForCausalLM"))(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model


def as_llama_cpp(name, model):
    """Returns (architecture, tensors) as the conversion of llama.cpp writes them, by the map of the package gguf."""
    architecture = dict(mistral="llama").get(name.split("-")[0], name.split("-")[0])
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names, config = gguf.get_tensor_name_map(number, 16), model.config
    tied, tensors = config.tie_word_embeddings, {}
    for theirs, tensor in model.state_dict().items():
        if theirs.endswith((".attn.bias", ".masked_bias")) or (tied and theirs == "lm_head.weight"):
            continue
        x = tensor.numpy()
        if architecture == "llama" and (".q_proj" in theirs or ".k_proj" in theirs):  # LlamaModel.permute
            heads = config.num_attention_heads if ".q_proj" in theirs else config.num_key_value_heads
            x = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        if architecture == "gemma3" and theirs.endswith("norm.weight"):
            x = x + np.float32(1)
        if architecture == "gpt2" and theirs.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            x = x.T
        tensors[names.get_name(theirs, try_suffixes=(".weight", ".bias")) or theirs] = x
    if "llama3" in str(getattr(config, "rope_parameters", "")):
        tensors["rope_freqs.weight"] = rope_freqs(5e5, 32, **LLAMA3)
    return architecture, tensors


def rope_freqs(base, dim, *, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    """Returns the divisors of `LlamaModel.generate_extra_tensors` in llama.cpp."""
    torch, length = pytest.importorskip("torch"), original_max_position_embeddings
    found = []
    for freq in 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)):
        wavelen = 2 * math.pi / freq
        if wavelen < length / high_freq_factor:
            found.append(1)
        elif wavelen > length / low_freq_factor:
            found.append(factor)
        else:
            smooth = (length / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found, dtype=torch.float32).numpy()


@pytest.mark.parametrize(("factor", "dim"), [(8.0, 128), (32.0, 64), (32.0, 128), (16.0, 32)])
def test_llama_3_scalings_are_found(factor, dim):
    """The divisors of Llama 3.1 to 3.3 are those of one scaling, found exactly; the length may be another one."""
    for more in ({}, dict(original_max_position_embeddings=4096), dict(high_freq_factor=8.0)):
        settings = LLAMA3 | dict(factor=factor) | more
        found = llama3_scaling(rope_freqs(5e5, dim, **settings), theta=5e5, head_dim=dim)
        assert found == dict(rope_type="llama3", **settings)


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back_from_gguf(name, tmp_path):
    """Tensors are exact (norms of Gemma to one rounding), and the logits are those of transformers within 1e-4."""
    torch = pytest.importorskip("torch")
    model = hugging_face_model(name)
    architecture, tensors = as_llama_cpp(name, model)
    keys = SIZES | (HEADS if architecture != "gpt2" else {"attention.head_count": 4}) | MODELS[name][2]
    keys |= {"feed_forward_length": 192} if architecture == "gpt2" else {}
    found = GgufFile(write(tmp_path / "a.gguf", architecture, keys, tensors))
    states = {k: v.numpy() for k, v in model.state_dict().items() if not k.endswith((".attn.bias", ".masked_bias"))}
    if model.config.tie_word_embeddings:
        del states["lm_head.weight"]
    assert found.shapes == {k: v.shape for k, v in states.items()}
    for theirs, tensor in states.items():
        x = found[theirs]
        assert x.dtype.name == found.dtypes[theirs] == "float32"
        np.testing.assert_allclose(x, tensor, rtol=0, atol=1.2e-7 if architecture == "gemma3" else 0)

    config = config_from(found.config)
    read = {tuple(path.split("/")): x for path, x in leaves_from(found.shapes, found.__getitem__, config)}
    params = flax.traverse_util.unflatten_dict(read)
    tokens = np.random.default_rng(0).integers(0, 96, (2, 24))
    ours = Transformer(config).apply({"params": params}, jnp.asarray(tokens))
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_is_the_models(name, tmp_path):
    """transformers makes the same configuration of what is read as of the original fields."""
    transformers = pytest.importorskip("transformers")
    model = hugging_face_model(name)
    architecture, tensors = as_llama_cpp(name, model)
    keys = SIZES | (HEADS if architecture != "gpt2" else {"attention.head_count": 4}) | MODELS[name][2]
    found = GgufFile(write(tmp_path / "a.gguf", architecture, keys, tensors)).config
    ours = transformers.AutoConfig.for_model(**found).to_dict()
    theirs = model.config.to_dict()
    # Set by the metadata of the tokenizer, which the file has not; not of the model; llama has what mistral has.
    ignored = {"architectures", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "transformers_version"}
    ignored |= {"model_type", "sliding_window", "n_inner", "_attn_implementation"}
    ignored |= {"hidden_act"} if architecture == "olmo2" else set()
    different = {
        k: (ours.get(k), theirs[k]) for k in theirs if k in found | {"rope_parameters": 0} and k not in ignored
    }
    assert all(a == b for a, b in different.values()), {k: v for k, v in different.items() if v[0] != v[1]}


def test_quantised_tensors_are_decoded_and_permuted(tmp_path):
    """A quantised matrix is decoded before the rows of its heads are restored; types and sizes are reported."""
    tensors = llama_tensors(hidden=64, rows=64, kv_rows=32)
    q = gguf.quants.quantize(tensors["blk.0.attn_q.weight"], gguf.GGMLQuantizationType.Q8_0)
    plain = gguf.quants.dequantize(q, gguf.GGMLQuantizationType.Q8_0)
    tensors["blk.0.attn_q.weight"] = (q, "Q8_0")
    tensors["blk.1.attn_q.weight"] = tensors["blk.1.attn_q.weight"].astype(np.float16)
    path = llama_file(tmp_path / "a.gguf", {"embedding_length": 64}, tensors=tensors)
    found = GgufFile(path)
    first, second = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2))
    assert (found.dtypes[first], found.kinds[first], found.kinds[second]) == ("float32", "Q8_0", "F16")
    assert found.nbytes == os.path.getsize(path)
    expected = plain.reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    np.testing.assert_array_equal(found[first], expected)
    halves = tensors["blk.1.attn_q.weight"].reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    np.testing.assert_array_equal(found[second], halves)
    assert found[second].dtype == np.float16 and found.dtypes[second] == "float16"


def test_special_ids(tmp_path):
    """Ids are those of the metadata; a text also ends at control tokens where llama.cpp ends it; others are ignored."""
    tokens = ["<unk>", "<s>", "</s>", "<|im_end|>", "<|endoftext|>"] + [f"t{i}" for i in range(27)]
    general = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}
    general |= {"tokenizer.ggml.token_type": [2, 3, 3, 3, 1] + [1] * 27, "tokenizer.ggml.padding_token_id": 99}
    found = GgufFile(llama_file(tmp_path / "a.gguf", general=general))
    assert (found.config["bos_token_id"], found.config["eos_token_id"]) == (1, 2)
    assert "pad_token_id" not in found.config
    assert found.generation == {"bos_token_id": 1, "eos_token_id": [2, 3]}


REFUSED = {
    "architecture": ({}, {"general.architecture": "mamba"}, "architecture 'mamba' was given, which is not supported"),
    "type": ({}, {"general.type": "adapter"}, "type 'adapter' was given; expected a model"),
    "parts": ({}, {"split.count": 3}, "is one of 3 parts. Join them first: llama-gguf-split --merge"),
    "experts": ({"expert_count": 8}, {}, "mixture of experts"),
    "layers": ({"attention.head_count_kv": [2, 1]}, {}, "head_count_kv = .2 1.; expected one whole number"),
    "missing": ({"block_count": None}, {}, "has no llama.block_count"),
    "many_layers": ({"block_count": 1 << 30}, {}, "has 1073741824 layers and only 20 tensors"),
    "array": ({"expert_count": [1, 2]}, {}, "an array as llama.expert_count; one value was expected"),
    "rotary": ({"rope.dimension_count": 6, "attention.key_length": 12}, {}, "rotates 6 of the 12 dimensions"),
    "values": ({"attention.value_length": 24}, {}, "heads of 12 keys and 24 values"),
    "epsilon": ({"attention.layer_norm_rms_epsilon": float("nan")}, {}, "rms_epsilon = nan; expected a positive"),
    "heads": ({"attention.head_count_kv": 5}, {}, "has 24 rows; an even number for each of 5 heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused(name, tmp_path):
    """Each message says what the file has and what was expected."""
    keys, general, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        GgufFile(llama_file(tmp_path / "a.gguf", keys, general))


def test_unknown_tensors_and_scalings_are_refused(tmp_path):
    """Another variant of an architecture is refused, not read in part."""
    tensors = llama_tensors()
    extra = np.ones(6, np.float32)
    with pytest.raises(InputError, match="unknown for the architecture llama: blk.0.ffn_gate_inp.weight"):
        GgufFile(llama_file(tmp_path / "a.gguf", tensors=tensors | {"blk.0.ffn_gate_inp.weight": extra}))
    with pytest.raises(InputError, match="rope_freqs.weight with divisors that are not those of Llama 3 .from 1 to 3"):
        divisors = np.array([1, 1, 2, 3, 1, 2], np.float32)
        GgufFile(llama_file(tmp_path / "b.gguf", tensors=tensors | {"rope_freqs.weight": divisors}))
    assert (
        GgufFile(llama_file(tmp_path / "c.gguf", tensors=tensors | {"rope_freqs.weight": extra})).config["rope_scaling"]
        is None
    )
    with pytest.raises(InputError, match="change with the length of a text .longrope."):
        GgufFile(llama_file(tmp_path / "f.gguf", tensors=tensors | {"rope_factors_long.weight": extra}))
    path = llama_file(tmp_path / "d.gguf", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0})
    with pytest.raises(InputError, match="rotary positions of type 'yarn'"):
        config_from(GgufFile(path).config)
    path = llama_file(tmp_path / "e.gguf", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    assert GgufFile(path).config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


ODD = (-1, 0, 3, 1 << 40, -0.5, float("inf"), True, "", "text", [], [1], [0.5, 2.5], ["a", "b"], [True])
KEYS = ("general.type", "general.architecture", "split.count", "llama.expert_count", "llama.attention.causal")
KEYS += tuple(f"llama.{key}" for key in (*SIZES, *HEADS, "attention.key_length", "rope.freq_base", "rope.scaling.type"))
KEYS += ("llama.rope.scaling.factor", "llama.rope.scaling.original_context_length", "tokenizer.chat_template")
KEYS += tuple(
    f"tokenizer.ggml.{key}"
    for key in ("model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id")
    + ("eot_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix")
)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_odd_values_raise_only_input_errors(kind):
    """A value of another type or size for any key is refused or ignored; no other error."""
    tensors = {name: TensorPlace(x.shape, 0, 0) for name, x in llama_tensors().items()}
    good = {f"llama.{key}": value for key, value in (SIZES | HEADS).items()} | {"general.architecture": "llama"}
    good |= {"tokenizer.ggml.model": kind, "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.merges": ["a b"]}
    good |= {"tokenizer.ggml.tokens": ["a", "b", "ab"], "tokenizer.ggml.token_type": np.array([2, 3, 1])}
    for key in KEYS:
        for value in ODD:
            as_read = value if not isinstance(value, list) or value and isinstance(value[0], str) else np.array(value)
            values = good | {key: as_read}
            try:
                config = config_of(Metadata(Header(values, tensors, 0)), None)
                generation_of(values, config)
                config_from(config)
            except InputError:
                pass
            try:
                tokenizer_files(values, "llama")
            except InputError:
                pass


def test_damaged_files_are_refused(tmp_path):
    """Truncated files, overlapping tensors, and files that change after they were opened."""
    path = llama_file(tmp_path / "a.gguf")
    content = path.read_bytes()
    (tmp_path / "short.gguf").write_bytes(content[:-200])
    with pytest.raises(InputError, match="and the GGUF file has .*: it was cut off"):
        GgufFile(tmp_path / "short.gguf")
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    (tmp_path / "overlap.gguf").write_bytes(content[:at] + struct.pack("<Q", 32) + content[at + 8 :])
    with pytest.raises(InputError, match="'output_norm.weight' overlaps another one"):
        GgufFile(tmp_path / "overlap.gguf")
    found = GgufFile(path)
    path.write_bytes(content + b"x")
    with pytest.raises(InputError, match="was changed after it was opened"):
        found["model.norm.weight"]
