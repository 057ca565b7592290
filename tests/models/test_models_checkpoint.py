"""A checkpoint is found by its path or its package, and anything else is named."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models.checkpoint import open_checkpoint
from compressed_lm.models.safetensors_files import write_tensors

pytest.importorskip("safetensors")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    write_tensors(folder, {"a": np.ones((2, 3), np.float16)}, max_bytes=10**9)
    return folder


def test_a_folder_is_a_checkpoint(folder):
    """Configuration, shapes, types, size and the tokenizer's files are those of the folder."""
    found = open_checkpoint(folder)
    assert (found.config, found.generation, found.tokenizer_files()) == ({"model_type": "llama"}, {}, {})
    assert (found.shapes, found.dtypes) == ({"a": (2, 3)}, {"a": "float16"})
    assert found.nbytes == (folder / "model.safetensors").stat().st_size
    assert found["a"].dtype == np.float16
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("hello")
    found = open_checkpoint(str(folder))
    assert found.generation == {"eos_token_id": 3}
    assert found.tokenizer_files() == {"tokenizer_config.json": b"{}", "chat_template.jinja": b"hello"}


def test_a_changed_file_is_not_read_beyond_its_end(folder):
    """A file that became shorter after it was opened, and a header whose shape promises more, are refused."""
    found, file = open_checkpoint(folder), folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="was truncated after it was opened"):
        found["a"]
    header = {"a": {"dtype": "F16", "shape": [10**6, 10**6], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(InputError, match="cannot be read"):
        open_checkpoint(folder)
    file.write_bytes((1 << 62).to_bytes(8, "little") + content[8:])
    with pytest.raises(InputError, match="cannot be read"):
        open_checkpoint(folder)


def test_other_sources_are_named(folder, tmp_path):
    """A missing path, a name on Hugging Face, a pipe-like path, pickles and single files say what to give."""
    cases = {
        "HuggingFaceTB/SmolLM2-135M": "There is no file or folder .*download its files first.*package:SmolLM2-135M",
        str(tmp_path / "gone"): "There is no file or folder .*Nothing is downloaded",
        str(tmp_path): "has no config.json and no ..gguf",
        str(folder / "config.json"): f"one file of a checkpoint; give its folder, {folder}",
        "/dev/null": "neither a file nor a folder",
        "https://host/model": "only local paths are supported here",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_checkpoint(path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="It holds pytorch_model.bin, a pickled checkpoint"):
        open_checkpoint(tmp_path)


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    """A distribution with one GGUF file is opened; one without, with two or not installed is named."""
    info = tmp_path / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (tmp_path / "tiny_model").mkdir()
    (tmp_path / "tiny_model" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(InputError, match="no Python package 'no-such-model' is installed. Install it"):
        open_checkpoint("package:no-such-model")
    (info / "RECORD").write_text("tiny_model/__init__.py,,\n")
    with pytest.raises(InputError, match="has 0 GGUF files .none.; expected one"):
        open_checkpoint("package:tiny-model")
    (info / "RECORD").write_text("tiny_model/__init__.py,,\ntiny_model/a.gguf,,\n")
    with pytest.raises(InputError, match="which does not exist. Install it again"):
        open_checkpoint("package:tiny-model")
    (pathlib.Path(tmp_path) / "tiny_model" / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="a.gguf is not a valid GGUF file"):
        open_checkpoint("package:tiny-model")
    (info / "RECORD").write_text("tiny_model/b.gguf,,\ntiny_model/a.gguf,,\n")
    with pytest.raises(InputError, match="has 2 GGUF files"):
        open_checkpoint("package:tiny-model")
