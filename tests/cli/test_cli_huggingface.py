"""The verbs `import` and `export`, and what they must not cost those who do not use them."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from compressed_lm.cli import main
from compressed_lm.models import Transformer, TransformerConfig, huggingface
from compressed_lm.models.huggingface_tensors import tensors_of
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors

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
    """`import` tells what to do next, `export` what loads the result; the tensors are the same, and mistakes end in a
    message and status 2."""
    pytest.importorskip("safetensors")
    source, run, out = (tmp_path / name for name in ("source", "run", "out"))
    source.mkdir()
    shapes = jax.eval_shape(Transformer(CONFIG).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    params = {name: np.full(x.shape, 0.5, np.float32) for name, x in by_name(shapes["params"]).items()}
    write_tensors(source, tensors_of(params, CONFIG), max_bytes=10**9)
    (source / "config.json").write_text(json.dumps(huggingface.config_of(CONFIG, max_length=64, eod_id=256)))

    assert main(["import", str(source), f"--out={run}"]) == 2
    assert "no tokenizer.json and no tokenizer.model" in capsys.readouterr().err
    assert main(["import", str(source), f"--out={run}", "--codec=bytes"]) == 0
    said = capsys.readouterr().out
    assert "11,056 parameters, 2,608 of them outside" in said and f"compressed-lm generate {run} --codec" in said
    assert main(["export", str(run), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM in config.json, generation_config.json, model.safetensors; its ids are those of" in said
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert Tensors(out)["lm_head.weight"].shape == (264, 16)
    assert main(["export", str(run), f"--out={out}"]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def test_others_do_not_import_the_packages_of_hugging_face():
    """Training, codecs and the verbs load neither safetensors nor tokenizers, transformers or torch."""
    code = """
import sys
import compressed_lm.cli, compressed_lm.codecs, compressed_lm.evaluation, compressed_lm.training.huggingface
import compressed_lm.models.huggingface_tensors, compressed_lm.models.safetensors_files, compressed_lm.stages
print([m for m in ("safetensors", "tokenizers", "transformers", "torch") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
