"""Checkpoints of Hugging Face become runs like any other, and runs become such checkpoints."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from compressed_lm import codecs, training
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, generate, predict_fn
from compressed_lm.models import Transformer, TransformerConfig, huggingface, shift_right
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors
from compressed_lm.post_training.huggingface import export_run, import_run
from compressed_lm.post_training.quantize import quantize_run
from compressed_lm.training.run_dir import open_run

pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")

LLAMA = TransformerConfig(
    vocab_size=304,
    d_model=16,
    n_layers=1,
    n_heads=2,
    d_head=8,
    d_ff=32,
    n_kv_heads=1,
    activation="silu",
    position="rotary",
    scan_layers=False,
)
END, ROWS = 1, np.random.default_rng(0).integers(2, 257, (2, 20))


@pytest.fixture(scope="module")
def params():
    return jax.jit(Transformer(LLAMA).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.fixture(scope="module")
def checkpoint(params, tmp_path_factory):
    """A folder as `save_pretrained` writes it: two files of tensors and a tokenizer of 300 ids in 304 rows."""
    folder = tmp_path_factory.mktemp("huggingface") / "tiny"
    folder.mkdir()
    values = huggingface.config_of(LLAMA, max_length=64, eod_id=END) | {
        "bos_token_id": 0,
        "eos_token_id": [END, 7],
    }
    (folder / "config.json").write_text(json.dumps(values))
    leaves = by_name(params)
    shapes_by_name = {name: x.shape for name, x in leaves.items()}
    made = huggingface.tensors_of(shapes_by_name, leaves.__getitem__, LLAMA)
    write_tensors(folder, {name: make() for name, _, make in made}, max_bytes=20_000)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["a token is not a word "] * 20 + ["".join(map(chr, range(97, 123)))], trainer)
    for a in "abcdefghijklm":  # up to 300
        made.add_tokens([f"<{a}>" for _ in range(made.get_vocab_size() < 300)])
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "run"
    _, codec = import_run(checkpoint, out=out)
    return out, training.load_run(out), codec


def changed(checkpoint, folder, **changes):
    """A copy of the checkpoint, with other files: name -> content, or None for none."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        content = changes.get(path.stem, path.read_bytes())
        if content is not None:
            (folder / path.name).write_bytes(content)
    return folder


def test_an_imported_run_is_a_run(imported, params):
    """`load_run` gives the parameters to the bit, the shape, and the first end of text as end-of-document."""
    out, run, codec = imported
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    assert (run.model_config, run.eod_id, run.step, run.train_config.seq_len) == (LLAMA, END, 0, 64)
    loaded = codecs.load(out / "codec")
    assert loaded.fingerprint == codec.fingerprint == run.codec_fingerprint and loaded.eod_id == END


def test_text_is_compressed_evaluated_and_generated_with_its_end_of_document(imported, tmp_path):
    """Rows of a store open with the model's own end of text, documents end with it, and a sample stops at it."""
    _, run, codec = imported
    (tmp_path / "a.txt").write_text("a token is not a word")
    store = compress(open_corpus(f"text:{tmp_path}/*.txt"), "train", codec, tmp_path / "store", n_shards=1)
    assert store.eod_id == END
    ids = codec.encode(b"a token is not a word")
    settings = dict(store=store, seq_len=32, batch_size=8, mesh_shape=(1, 1, 1))
    found = dict(BitsPerByte(predict_fn(run.model_config, store.eod_id), **settings).run(run.params))
    row = np.append(ids, END)[None]
    logits = jax.jit(Transformer(LLAMA).apply)({"params": run.params}, shift_right(jnp.asarray(row), END))
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), row[..., None], -1).sum()
    assert found["bits_per_byte"] == pytest.approx(nats / np.log(2) / len("a token is not a word"), rel=1e-5)
    always = jax.tree.map(jnp.ones_like, run.params)
    for likeliest, text in ((END, "a"), (codec.encode(b"b")[0], "ab")):
        kernel = jnp.zeros((16, 304)).at[:, likeliest].set(1)
        params = always | {"unembed": {"kernel": kernel}}
        assert "".join(generate(params, LLAMA, codec, prompt=b"a", n_tokens=1, temperature=0)) == text


def test_a_run_comes_back_as_the_checkpoint_it_was(imported, checkpoint, tmp_path):
    """Tensors to the bit, the tokenizer's file, the special ids and the length that it was made for."""
    values = export_run(imported[0], out=tmp_path / "out", file_bytes=20_000)
    assert [name for name in values["files"] if name.endswith(".safetensors")] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    before, after = Tensors(checkpoint), Tensors(tmp_path / "out")
    assert before.shapes == after.shapes
    for name in before.shapes:
        np.testing.assert_array_equal(before[name], after[name])
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["max_position_embeddings"]) == (0, [END, 7], 64)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


NEOX = TransformerConfig(
    vocab_size=304,
    d_model=16,
    n_layers=2,
    n_heads=2,
    d_head=8,
    d_ff=32,
    activation="gelu",
    position="rotary",
    gated_mlp=False,
    norm="layer",
    norm_eps=1e-5,
    bias="all",
    parallel_residual=True,
    rotary_fraction=0.25,
    scan_layers=False,
)


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_types_are_kept_or_converted(config, stored, tmp_path):
    """keep gives back the tensors to the bit, in several files too; float32 and bfloat16 convert them."""
    kind = np.dtype(getattr(ml_dtypes, stored, stored))
    values = huggingface.config_of(config, max_length=64, eod_id=END) | {"bos_token_id": 0, "pad_token_id": 3}
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(values))
    generation = {"eos_token_id": [END, 7], "temperature": 0.5, "custom_generate": "code"}
    (source / "generation_config.json").write_text(json.dumps(generation))
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    leaves = {name: draw.normal(size=leaf.shape).astype(kind) for name, leaf in by_name(shapes).items()}
    tensors = huggingface.tensors_of({name: leaf.shape for name, leaf in leaves.items()}, leaves.__getitem__, config)
    write_tensors(source, {name: make() for name, _, make in tensors}, max_bytes=10**9)

    found, _ = import_run(source, out=tmp_path / "run", codec=codecs.Bytes())
    assert set(found.dtypes.values()) == {stored}
    assert (tmp_path / "run" / "weights.clw").stat().st_size < 3000 + Tensors(source).nbytes
    run = training.load_run(tmp_path / "run")
    for name, leaf in by_name(run.params).items():
        np.testing.assert_array_equal(leaf, leaves[name].astype(np.float32))
    values = export_run(tmp_path / "run", out=tmp_path / "kept", file_bytes=10_000)
    before, after = Tensors(source), Tensors(tmp_path / "kept")
    assert before.dtypes == after.dtypes and values["torch_dtype"] == stored
    for name in before.shapes:
        assert before[name].tobytes() == after[name].tobytes()
    assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (0, END, 3)
    kept = json.loads((tmp_path / "kept/generation_config.json").read_text())
    assert kept == {"bos_token_id": 0, "eos_token_id": [END, 7], "pad_token_id": 3, "temperature": 0.5}
    assert open_run(tmp_path / "run").record["imported"]["stop_token_ids"] == [END, 7]
    export_run(tmp_path / "run", out=tmp_path / "half", dtype="bfloat16")
    import_run(tmp_path / "half", out=tmp_path / "full", codec=codecs.Bytes(), dtype="float32")
    for name, tensor in by_name(training.load_run(tmp_path / "full").params).items():
        np.testing.assert_array_equal(tensor, leaves[name].astype(ml_dtypes.bfloat16).astype(np.float32))
    assert set(open_run(tmp_path / "full").dtypes.values()) == {"float32"}


IMPORT = """
import resource, sys
from compressed_lm import codecs
from compressed_lm.post_training.huggingface import import_run
import_run(sys.argv[1], out=sys.argv[2], codec=codecs.Bytes())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow("two processes that import 0.05 and 60 MB")
def test_an_import_needs_the_memory_of_its_largest_parameters(tmp_path):
    """60 MB more of a bfloat16 checkpoint need at most 40 MB more of memory."""
    peaks = []
    for name, config in {
        "small": LLAMA,
        "large": dataclasses.replace(LLAMA, n_layers=80, d_model=256, d_ff=410),
    }.items():
        shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        shapes = {path: leaf.shape for path, leaf in by_name(shapes).items()}
        zeros = lambda path, shapes=shapes: np.broadcast_to(np.zeros((), ml_dtypes.bfloat16), shapes[path])  # noqa: E731
        source = tmp_path / name
        source.mkdir()
        (source / "config.json").write_text(json.dumps(huggingface.config_of(config, max_length=64, eod_id=END)))
        write_tensors(
            source, {k: make() for k, _, make in huggingface.tensors_of(shapes, zeros, config)}, max_bytes=10**9
        )
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, source, tmp_path / f"{name}-run"], stdout=subprocess.PIPE, check=True
        )
        peaks.append(int(done.stdout))
    assert Tensors(tmp_path / "large").nbytes > 50e6
    assert peaks[1] - peaks[0] < 40e6


def test_a_quantized_run_exports_as_what_the_format_makes_of_it(imported, tmp_path):
    """The tensors are the packed run's numbers; the tokenizer is written where the codec is given."""
    out, _, codec = imported
    quantize_run(out, "int(b=4,g=16)", out=tmp_path / "packed")
    values = export_run(tmp_path / "packed", out=tmp_path / "out", codec=codec)
    assert "tokenizer.json" in values["files"]
    expected = by_name(training.load_run(tmp_path / "packed").params)["layers/mlp/up/kernel"][0].T
    found = Tensors(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found[0, :16])) <= 16


@pytest.mark.slow("trains models before and after")
def test_a_run_of_ours_loads_in_transformers(small_run, tmp_path):
    """A trained Llama-shaped model with 4-bit weights and learned steps has the same logits in transformers.

    Its codec has no tokenizer.
    """
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = dataclasses.replace(LLAMA, vocab_size=264, weights="int(b=4,rule=lsq)")
    config = dataclasses.replace(small_run.config, steps=1, warmup_steps=0)
    run = training.train(config, model, small_run.store, out=tmp_path / "run", mesh_shape=(1, 1, 1))
    values = export_run(tmp_path / "run", out=tmp_path / "out")
    assert values["architectures"] == ["LlamaForCausalLM"] and values["compressed_lm"]["codec"] == "bytes"
    assert values["files"] == ["config.json", "generation_config.json", "model.safetensors"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        found = theirs(torch.tensor(ROWS)).logits.numpy()
    expected = jax.jit(Transformer(model).apply)({"params": run.params}, jnp.asarray(ROWS))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert theirs.config.eos_token_id == 256


def test_checkpoints_that_cannot_be_imported_are_named(checkpoint, tmp_path):
    """No folder of a model, broken files, no tokenizer, too many ids, a folder in use; and nothing is left behind."""
    out = tmp_path / "run"

    def refused(message, source, **settings):
        with pytest.raises(InputError, match=message):
            import_run(source, out=out, **settings)
        assert not out.exists()

    refused("was given as a checkpoint, but has no config.json and no ..gguf. Give a folder", tmp_path)
    refused("config.json is not valid JSON", changed(checkpoint, tmp_path / "a", config=b"{"))
    refused("config.json is not valid JSON .it holds .. where", changed(checkpoint, tmp_path / "b", config=b"[]"))
    refused("the architecture 'bert'", changed(checkpoint, tmp_path / "c", config=b'{"model_type": "bert"}'))
    whole = (checkpoint / "model-00001-of-00003.safetensors").read_bytes()
    cut = {"model-00001-of-00003": whole[: len(whole) // 2]}
    refused("model-00001-of-00003.safetensors cannot be read", changed(checkpoint, tmp_path / "d", **cut))
    lost = {"model-00002-of-00003": None}
    refused("model-00002-of-00003.safetensors is missing", changed(checkpoint, tmp_path / "e", **lost))
    alone = changed(checkpoint, tmp_path / "f", tokenizer=None)
    refused("has no tokenizer.json and no tokenizer.model.* --codec DIR", alone)
    gzip = codecs.create("gzip(v=4096)")
    refused("gzip.v=4096. has ids up to 4096, but the model .* has 304 rows", alone, codec=gzip)
    ended = json.loads((checkpoint / "config.json").read_text()) | {"eos_token_id": None}
    endless = changed(checkpoint, tmp_path / "g", config=json.dumps(ended).encode())
    refused("does not define the end-of-text id .* --eod ID", endless)
    (endless / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert import_run(endless, out=tmp_path / "named")[0].eod_id == END
    assert import_run(alone, out=tmp_path / "bytes", codec=codecs.Bytes())[0].eod_id == 256
    with pytest.raises(InputError, match="was given as the folder of the imported run and is not empty"):
        import_run(checkpoint, out=tmp_path / "named")


@pytest.mark.slow("trains models before and after")
def test_runs_that_cannot_be_exported_are_named(imported, small_run, tmp_path):
    """A shape that no architecture has, another codec, a folder in use, a file size of nothing; nothing is left."""
    native = tmp_path / "native"
    small_run(native)
    with pytest.raises(InputError, match="position=relative .rotary is needed."):
        export_run(native, out=tmp_path / "out")
    with pytest.raises(InputError, match="has fingerprint .* Give the one"):
        export_run(imported[0], out=tmp_path / "out", codec=codecs.Bytes())
    with pytest.raises(InputError, match="file_bytes=0 was given"):
        export_run(imported[0], out=tmp_path / "out", file_bytes=0)
    with pytest.raises(InputError, match="was given as the folder of the exported run and is not empty"):
        export_run(imported[0], out=imported[0])
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_odd_ids_and_runs_as_sources(tmp_path):
    """-1 as a special id, as in old checkpoints, means none; a run is named as such."""
    source = tmp_path / "source"
    source.mkdir()
    values = huggingface.config_of(LLAMA, max_length=64, eod_id=END) | {"bos_token_id": -1, "pad_token_id": -1}
    (source / "config.json").write_text(json.dumps(values))
    shapes = jax.eval_shape(Transformer(LLAMA).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    leaves = {name: np.ones(leaf.shape, np.float32) for name, leaf in by_name(shapes).items()}
    tensors = huggingface.tensors_of({name: leaf.shape for name, leaf in leaves.items()}, leaves.__getitem__, LLAMA)
    write_tensors(source, {name: make() for name, _, make in tensors}, max_bytes=10**9)
    import_run(source, out=tmp_path / "run", codec=codecs.Bytes())
    entry = open_run(tmp_path / "run").record["imported"]
    assert (entry["bos_token_id"], entry["pad_token_id"], entry["stop_token_ids"]) == (None, None, [END])
    with pytest.raises(InputError, match="is a run of compressed_lm already"):
        import_run(tmp_path / "run", out=tmp_path / "again")
