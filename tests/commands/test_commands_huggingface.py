"""Commands `import` and `export`, and the imports that other commands must avoid."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.cli import main
from compressed_lm.errors import InputError
from compressed_lm.evaluation import sample_tokens
from compressed_lm.models import Transformer, TransformerConfig, huggingface
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors
from compressed_lm.training import load_run
from compressed_lm.weights import bitstream

CONFIG = TransformerConfig(
    vocab_size=264,
    d_model=16,
    n_layers=1,
    n_heads=2,
    d_head=8,
    d_ff=32,
    activation="silu",
    position="rotary",
)


def test_a_checkpoint_goes_in_and_out(tmp_path, capsys):
    """`import` and `export` keep all tensors, print the next steps, and end mistakes with a message and status 2."""
    pytest.importorskip("safetensors")
    source, run, out = (tmp_path / name for name in ("source", "run", "out"))
    source.mkdir()
    shapes = jax.eval_shape(Transformer(CONFIG).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    params = {name: np.full(x.shape, 0.5, np.float32) for name, x in by_name(shapes["params"]).items()}
    shapes_by_name = {name: x.shape for name, x in params.items()}
    made = huggingface.tensors_of(shapes_by_name, params.__getitem__, CONFIG)
    write_tensors(source, {name: make() for name, _, make in made}, max_bytes=10**9)
    (source / "config.json").write_text(json.dumps(huggingface.config_of(CONFIG, max_length=64, eod_id=256)))

    assert main(["import", str(source), f"--out={run}"]) == 2
    assert "no tokenizer.json and no tokenizer.model" in capsys.readouterr().err
    assert main(["import", str(source), f"--out={run}", "--codec=bytes"]) == 0
    said = capsys.readouterr().out
    assert "11,056 parameters, 2,608 of them outside" in said and f"compressed-lm generate {run} --prompt" in said
    assert main(["export", str(run), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM in config.json, generation_config.json, model.safetensors, tokenizer.json" in said
    assert "float32; its tokenizer is included" in said
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert Tensors(out)["lm_head.weight"].shape == (264, 16)
    assert main(["export", str(run), f"--out={out}"]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def checkpoint(folder, config=CONFIG):
    """Writes a Hugging Face checkpoint without a tokenizer."""
    folder.mkdir()
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    draw = np.random.default_rng(0)
    params = {k: draw.normal(size=x.shape).astype(np.float32) for k, x in by_name(shapes["params"]).items()}
    shapes_by_name = {name: x.shape for name, x in params.items()}
    made = huggingface.tensors_of(shapes_by_name, params.__getitem__, config)
    write_tensors(folder, {name: make() for name, _, make in made}, max_bytes=10**9)
    (folder / "config.json").write_text(json.dumps(huggingface.config_of(config, max_length=64, eod_id=256)))
    return folder


def test_what_is_made_of_an_imported_run_keeps_its_tokenizer(tmp_path, capsys):
    """quantize and reshape copy the codec, pack includes it and unpack restores it; export writes the tokenizer.

    unpack also takes it as an option. Without a codec, export reports how to give it.
    """
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    codec = codecs.create("bpe(v=258)", documents=lambda: [b"the theme " * 9])
    codecs.save(codec, tmp_path / "bpe")
    run, tokenizer = tmp_path / "run", f"--codec={tmp_path}/bpe"
    assert main(["import", str(checkpoint(tmp_path / "source")), f"--out={run}", tokenizer]) == 0
    assert main(["quantize", str(run), "--format=int(b=8)", f"--out={tmp_path}/quantized"]) == 0
    assert main(["reshape", f"{tmp_path}/quantized", f"--out={tmp_path}/reshaped"]) == 0
    assert main(["pack", str(run), "--step=0.25std", f"--out={tmp_path}/run.clb"]) == 0
    assert main(["unpack", f"{tmp_path}/run.clb", f"--out={tmp_path}/unpacked", tokenizer]) == 0
    assert main(["unpack", f"{tmp_path}/run.clb", f"--out={tmp_path}/restored"]) == 0
    assert "The run's codec is included" in capsys.readouterr().out
    for name in ("quantized", "reshaped", "unpacked", "restored"):
        assert main(["export", f"{tmp_path}/{name}", f"--out={tmp_path}/{name}-hf"]) == 0
        assert "its tokenizer is included" in capsys.readouterr().out
        assert (tmp_path / f"{name}-hf" / "tokenizer.json").exists()
        imported = json.loads((tmp_path / name / "config.json").read_text())["imported"]
        assert (imported["model_type"], imported["stop_token_ids"]) == ("llama", [256])
    shutil.rmtree(tmp_path / "restored" / "codec")
    assert main(["export", f"{tmp_path}/restored", f"--out={tmp_path}/bare-hf"]) == 0
    said = capsys.readouterr().out
    assert "it has no tokenizer" in said and "export to a new folder with --codec" in said and codec.spec in said
    assert main(["unpack", f"{tmp_path}/run.clb", f"--out={tmp_path}/other", "--codec=bytes"]) == 2
    assert "Give the codec that the run was trained with" in capsys.readouterr().err


def test_other_things_than_a_checkpoint_folder_are_named(tmp_path, capsys):
    """If the path is not a checkpoint folder, import reports what it is and what to give."""
    source = checkpoint(tmp_path / "source")
    values = json.loads((source / "config.json").read_text())
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "several").mkdir()
    for name in "ab":
        (tmp_path / "several" / f"{name}.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.gguf").write_text("text")
    kinds = {"gptj": "", "mamba": "", "gemma": "", "llama4": "", "mixtral": "", "qwen": "", "gpt_neo": ""}
    kinds |= {"mistal": "", "Llama": "llama", "GPT-NeoX": "gpt_neox", "qwn2": ""}
    for kind in kinds:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps(values | {"model_type": kind}))
        (tmp_path / kind / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    cases = {
        "model.gguf": "not a valid GGUF file",
        "ggufs": "a.gguf is not a valid GGUF file",
        "several": "holds 2 GGUF files: a.gguf, b.gguf. Give one of them",
        "text.gguf": "not a GGUF file, though its name ends in .gguf",
        "model.bin": "a pickled checkpoint",
        "tokenizer.json": f"one file of a checkpoint; give its folder, {tmp_path}.",
        "source/model.safetensors": f"one file of a checkpoint; give its folder, {tmp_path}/source.",
        "gone": "There is no file or folder",
    }
    cases |= {kind: "is not supported" for kind in kinds}
    for name, message in cases.items():
        assert main(["import", f"{tmp_path}/{name}", f"--out={tmp_path}/run", "--codec=bytes"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert ("Did you mean" in said) == bool(kinds.get(name)) and f"Did you mean {kinds.get(name, '')}" in said + (
            "Did you mean "
        )
    assert not (tmp_path / "run").exists()


def test_others_do_not_import_the_packages_of_hugging_face():
    """Training, codecs and other commands load none of safetensors, tokenizers, transformers and torch."""
    code = """
import sys
import compressed_lm.cli, compressed_lm.codecs, compressed_lm.evaluation, compressed_lm.post_training.huggingface
import compressed_lm.models.huggingface, compressed_lm.models.safetensors_files, compressed_lm.pipelines.stages
print([m for m in ("safetensors", "tokenizers", "transformers", "torch") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_run_goes_out_as_gguf_and_in_again(tmp_path, capsys):
    """`export --format gguf` writes one file with tokenizer, which `import` reads: weights rounded to --dtype.

    Options that do not go together, other names and files that exist are refused.
    """
    for package in ("safetensors", "tokenizers", "gguf"):
        pytest.importorskip(package)
    codec = codecs.create("bpe(v=258)", documents=lambda: [b"the theme " * 9])
    codecs.save(codec, tmp_path / "bpe")
    run, source = tmp_path / "run", checkpoint(tmp_path / "source")
    ends = dict(bos_token_id=None, eos_token_id=codecs.eod_id(codec))
    (source / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | ends))
    assert main(["import", str(source), f"--out={run}", f"--codec={tmp_path}/bpe"]) == 0
    before = by_name(load_run(run).params)
    export = ["export", str(run), "--format=gguf"]
    for dtype, said, error in (("keep", "float32", 0), ("f16", "float16", 1e-3), ("q8_0", "q8_0", 5e-2)):
        file, again = tmp_path / f"{dtype}.gguf", tmp_path / f"again-{dtype}"
        capsys.readouterr()
        assert main([*export, f"--out={file}", f"--dtype={dtype}"]) == 0
        assert f"{file}: matrices in {said}, {file.stat().st_size:,} bytes; its tokenizer" in capsys.readouterr().out
        assert main(["import", str(file), f"--out={again}"]) == 0
        after = by_name(load_run(again).params)
        for name, leaf in before.items():
            np.testing.assert_allclose(after[name], leaf, rtol=0, atol=error * np.abs(leaf).max())
        text = b"the theme of it"
        assert codecs.load(again / "codec").encode(text).tolist() == codec.encode(text).tolist()
    for wrong, message in (
        ([*export, f"--out={tmp_path}/keep.gguf"], "keep.gguf was given for the GGUF file and exists; give a new file"),
        ([*export, f"--out={tmp_path}/folder"], "expected a name that ends in .gguf"),
        ([*export, f"--out={tmp_path}/b.gguf", "--file_gb=1"], "--file_gb was given with --format gguf"),
        (["export", str(run), f"--out={tmp_path}/b.gguf"], "b.gguf was given without --format gguf"),
        (["export", str(run), f"--out={tmp_path}/b", "--dtype=q8_0"], "--dtype q8_0 was given without --format gguf"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
    bare = tmp_path / "bytes"
    assert main(["import", str(tmp_path / "source"), f"--out={bare}", "--codec=bytes"]) == 0
    assert main(["export", str(bare), "--format=gguf", f"--out={tmp_path}/bytes.gguf"]) == 0
    assert "without a vocabulary: its ids are those of bytes" in capsys.readouterr().out


def test_a_sample_ends_at_the_last_learned_position(tmp_path, capsys):
    """A model with learned positions generates up to its last one, with a note; longer prompts and rows are refused."""
    config = dataclasses.replace(
        CONFIG, position="learned", max_length=23, norm="layer", bias="all", gated_mlp=False, activation="gelu"
    )
    run, source = tmp_path / "run", checkpoint(tmp_path / "source", config)
    command = ["import", str(source), f"--out={run}", "--codec=bytes"]
    assert main([*command, "--seq_len=24"]) == 2
    assert "seq_len=24 was given, and the model in" in (said := capsys.readouterr().err) and "at most 23" in said
    assert main(command) == 0
    params = load_run(run).params
    for n_tokens, n_new in ((19, 19), (200, 19)):  # 5 ids of the prompt, and the last new one is not read
        capsys.readouterr()
        assert main(["generate", str(run), "--prompt=a try", f"--n_tokens={n_tokens}", "--temperature=0"]) == 0
        said = capsys.readouterr()
        assert ("at most 19 tokens are sampled" in said.err) == (n_tokens > n_new)
        ids = np.array([*b"a try"])
        for _ in range(n_new):
            logits = Transformer(config).apply({"params": params}, ids[None])[0, -1, :257]
            ids = np.append(ids, logits.argmax())
        ids = ids[: list(ids).index(256)] if 256 in ids else ids
        assert said.out == bytes(ids.tolist()).decode(errors="replace") + "\n"
    assert main(["generate", str(run), f"--prompt={'a' * 24}"]) == 2
    assert "The prompt has 24 ids, and the model of" in capsys.readouterr().err
    with pytest.raises(InputError, match="24 tokens .* 23 learned positions"):
        next(sample_tokens(params, config, np.zeros(4), n_tokens=20, eod_id=256))


def test_a_large_codec_is_named_when_it_is_not_packed(tmp_path, capsys, monkeypatch):
    """`pack` says that a codec above the limit of a packed file is left out, and how to keep it."""
    pytest.importorskip("safetensors")
    run = tmp_path / "run"
    assert main(["import", str(checkpoint(tmp_path / "source")), f"--out={run}", "--codec=bytes"]) == 0
    for limit, said in ((1 << 20, "The run's codec is included."), (9, "The run's codec is not included: its files")):
        monkeypatch.setattr(bitstream, "MAX_FILES", limit)
        assert main(["pack", str(run), "--step=0.5std", f"--out={tmp_path}/{limit}.clb"]) == 0
        assert said in capsys.readouterr().out
        assert main(["unpack", f"{tmp_path}/{limit}.clb", f"--out={tmp_path}/un{limit}"]) == 0
        assert (tmp_path / f"un{limit}" / "codec").exists() == (limit > 9)
