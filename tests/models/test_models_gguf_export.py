"""Exported GGUF files hold the model: GgufFile and gguf.GGUFReader read it back."""

import copy
import importlib.util
import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.checkpoint import GgufFile
from compressed_lm.models.gguf.export import write_gguf
from compressed_lm.models.gguf.tokenizer import tokenizer_files

gguf = pytest.importorskip("gguf")

LLAMA = dict(
    model_type="llama", vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e5,
    tie_word_embeddings=True, hidden_act="silu", bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
GEMMA = dict(model_type="gemma3_text", num_hidden_layers=7, query_pre_attn_scalar=16, sliding_window=8)
GEMMA |= dict(rope_local_base_freq=5e3, final_logit_softcapping=20.0)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
CONFIGS = {
    "llama": LLAMA,
    "llama3": LLAMA
    | dict(rope_theta=5e5, head_dim=64, rope_scaling=LLAMA3 | dict(original_max_position_embeddings=8192)),
    "mistral": LLAMA | dict(model_type="mistral", tie_word_embeddings=False, sliding_window=None),
    "qwen2": LLAMA | dict(model_type="qwen2", rope_scaling=dict(rope_type="linear", factor=4.0)),
    "qwen3": LLAMA | dict(model_type="qwen3", tie_word_embeddings=False),
    "gemma3": LLAMA | GEMMA | dict(layer_types=[LOCAL] * 5 + [GLOBAL, LOCAL]),
    "gemma3-other": LLAMA | GEMMA | dict(layer_types=[LOCAL, GLOBAL, GLOBAL] * 2 + [LOCAL]),
    "olmo2": LLAMA | dict(model_type="olmo2"),
}


def model(name):
    """Returns (config, tensors in float16) of a small random model with the names of transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, rng = CONFIGS[name], np.random.default_rng(0)
    with torch.device("meta"):
        states = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**copy.deepcopy(config))
        ).state_dict()
    shapes = {
        k: tuple(v.shape) for k, v in states.items() if k != "lm_head.weight" or not config["tie_word_embeddings"]
    }
    return config, {k: rng.normal(size=shape).astype(np.float16) for k, shape in shapes.items()}


def as_tensors(arrays):
    return [(name, x.shape, lambda x=x: x) for name, x in arrays.items()]


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_is_exact(name, tmp_path):
    """Weights that are float16 numbers come back exactly, with the same configuration."""
    config, arrays = model(name)
    path = tmp_path / "a.gguf"
    write_gguf(path, config, as_tensors(arrays), {}, dtype="f16")
    found = GgufFile(path)
    assert found.shapes == {k: x.shape for k, x in arrays.items()}
    for theirs, x in arrays.items():
        assert found.dtypes[theirs] == ("float16" if x.ndim > 1 else "float32")
        # Gemma's scales are stored as 1 + w in float32.
        atol = 3e-7 if name.startswith("gemma3") and x.ndim == 1 else 0
        np.testing.assert_allclose(found[theirs].astype(np.float32), x.astype(np.float32), rtol=0, atol=atol)
    ignored = {"bos_token_id", "eos_token_id", "model_type"}
    wanted = {k: v for k, v in config.items() if k not in ignored and k in found.config}
    assert {k: found.config[k] for k in wanted} == wanted
    assert found.config["model_type"] == config["model_type"].replace("mistral", "llama")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]
    assert {t.name: t.n_elements for t in gguf.GGUFReader(path).tensors}["blk.0.attn_q.weight"] == 64 * 4 * config[
        "head_dim"
    ]


@pytest.mark.parametrize(("dtype", "kind"), [("q8_0", "Q8_0"), ("bf16", "BF16"), ("f32", "F32")])
def test_other_types_are_near(dtype, kind, tmp_path):
    """Q8_0 has an error of at most 0.57 steps (scales are float16), bfloat16 of 8 bits, float32 none."""
    config, arrays = model("llama")
    write_gguf(tmp_path / "a.gguf", config, as_tensors(arrays), {}, dtype=dtype)
    found = GgufFile(tmp_path / "a.gguf")
    for name, x in arrays.items():
        assert found.kinds[name] == (kind if x.ndim > 1 else "F32")
        x = x.astype(np.float32)
        steps = np.abs(x.reshape(-1, 32)).max(-1, keepdims=True) / 127 * np.ones(32)
        bound = dict(q8_0=0.57 * steps.reshape(x.shape), bf16=np.abs(x) / 256, f32=0)[dtype] if x.ndim > 1 else 0
        assert (np.abs(found[name].astype(np.float32) - x) <= bound).all()


def _tokenizer_tests():
    path = pathlib.Path(__file__).with_name("test_models_gguf_tokenizer.py")
    spec = importlib.util.spec_from_file_location("gguf_tokenizer_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "sentencepiece", "gemma"])
def test_tokenizers_come_back(kind, tmp_path):
    """tokenizer.json and tokenizer.model are read back from the exported file with the same ids and settings."""
    cases = _tokenizer_tests()
    if kind in cases.PRE:
        values = cases.metadata(cases.original(kind), kind, add_bos_token=True)
    else:
        prefix = kind != "gemma"
        values = cases.sentencepiece_metadata(cases.sentencepiece_model(prefix), prefix=prefix)
    files = tokenizer_files(values | {"tokenizer.chat_template": "{{ messages }}", "llama.context_length": 64}, "llama")
    config, arrays = model("llama")
    config = config | dict(vocab_size=640)
    arrays["model.embed_tokens.weight"] = np.ones((640, 64), np.float16)
    for_transformers = {"tokenizer.json": b"{}"} if kind == "gemma" else {}  # as export writes it beside the model
    write_gguf(tmp_path / "a.gguf", config, as_tensors(arrays), files | for_transformers)
    found = GgufFile(tmp_path / "a.gguf").tokenizer_files()
    assert json.loads(found["tokenizer_config.json"]) == json.loads(files["tokenizer_config.json"])
    if "tokenizer.json" in files:
        assert json.loads(found["tokenizer.json"]) == json.loads(files["tokenizer.json"])
    else:
        ours, theirs = (cases.pytest.importorskip("sentencepiece").SentencePieceProcessor() for _ in range(2))
        ours.LoadFromSerializedProto(found["tokenizer.model"])
        theirs.LoadFromSerializedProto(files["tokenizer.model"])
        assert ours.encode(cases.TEXTS) == theirs.encode(cases.TEXTS)


def test_what_llama_cpp_has_not_is_refused(tmp_path):
    """Architectures, types, scalings, windows, scales, tensors and tokenizers; no file is left."""
    config, arrays = model("llama")

    def refuse(message, files=None, dtype="f16", more=None, **changes):
        with pytest.raises(InputError, match=message):
            write_gguf(
                tmp_path / "a.gguf", config | changes, as_tensors(arrays | (more or {})), files or {}, dtype=dtype
            )

    refuse("architecture 'gpt_neox' cannot be written as a GGUF file. Supported: llama, mistral", model_type="gpt_neox")
    refuse("dtype='q4' was given", dtype="q4")
    refuse("Rotary positions of type 'llama3' cannot be written for qwen2", model_type="qwen2", rope_scaling=LLAMA3)
    refuse("activation 'relu'; llama.cpp has only silu for llama", hidden_act="relu")
    refuse("sliding_window = 8, which llama in llama.cpp has not", sliding_window=8)
    gemma = CONFIGS["gemma3"] | dict(query_pre_attn_scalar=99)
    refuse("query_pre_attn_scalar = 99; llama.cpp supports 16", **gemma)
    refuse("'silu'; llama.cpp has only gelu_pytorch_tanh for gemma3", **gemma, hidden_activation="silu")
    refuse("The tensor x.weight has no place", more={"x.weight": np.ones(3)})
    refuse("the weight 1e\\+05, too large for F16", more={"lm_head.weight": np.full((96, 64), 1e5, np.float32)})
    table = dict(type="BPE", vocab={"a": 0}, merges=[])
    content = dict(model=table, pre_tokenizer=dict(type="Whitespace"), added_tokens=[])
    refuse("splits text in a way that llama.cpp does not know", {"tokenizer.json": json.dumps(content).encode()})
    content |= dict(pre_tokenizer=dict(type="ByteLevel"), model=table | dict(vocab={"a": 200}))
    refuse("has 201 ids and the model 96", {"tokenizer.json": json.dumps(content).encode()})
    assert not list(tmp_path.iterdir())


def test_bfloat16_weights_keep_their_bits(tmp_path):
    """A checkpoint in bfloat16 is exported exactly."""
    config, arrays = model("llama")
    arrays = {name: x.astype(ml_dtypes.bfloat16) for name, x in arrays.items()}
    write_gguf(tmp_path / "a.gguf", config, as_tensors(arrays), {}, dtype="bf16")
    found = GgufFile(tmp_path / "a.gguf")
    assert all((found[name].astype(np.float32) == x.astype(np.float32)).all() for name, x in arrays.items())
