"""Real GGUF files (SmolLM2-135M, Gemma-3-270M): tensors, tokenizers and logits are those of transformers.

The files are searched in the folder named by COMPRESSED_LM_MODELS; `make test` installs SmolLM2 there.
"""

import functools
import os
import pathlib
import re
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.codecs import read_tokenizer
from compressed_lm.models import Transformer
from compressed_lm.models.gguf.checkpoint import GgufFile
from compressed_lm.models.gguf.header import read_header
from compressed_lm.models.huggingface import config_from, leaves_from

gguf = pytest.importorskip("gguf")

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = os.environ.get("COMPRESSED_LM_MODELS", "")
FILES = sorted(pathlib.Path(FOLDER).rglob("*.gguf")) if FOLDER else []
SKIPPED = pytest.param(
    None, marks=pytest.mark.skip(f"no *.gguf in COMPRESSED_LM_MODELS={FOLDER!r}: `make test` installs one")
)
every_file = pytest.mark.parametrize("path", FILES or [SKIPPED], ids=lambda path: path and path.stem)
TEXT = (
    "Der schnelle braune Fuchs springt \u00fcber den faulen Hund; Stra\u00dfen, H\u00e4user, \u00c4rger.\n"
    "\u6771\u4eac\u90fd\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3042\u308b\u3002\u5f7c\u5973\u306f\u30b3\u30fc\u30d2\u30fc\u3092\u98f2\u3093\u3060\u3002"
    "\u041c\u043e\u0441\u043a\u0432\u0430 \U0001f600 e\u0301   \t\tif x != y:\r\n\n\n        return [a, b]\n"
)


def documents():
    """Returns pages and code of this repository, and other languages, in pieces of about 2,000 characters."""
    paths = [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "compressed_lm").glob("*/*.py"))][:120]
    texts = [path.read_text() for path in paths]
    return [TEXT, *TEXT.split(), *(text[at : at + 2000] for text in texts for at in range(0, len(text), 2000))]


@functools.cache
def theirs_of(path):
    """Returns (model without weights, parsed file) of transformers' reader."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    loading = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    parsed = loading.load_gguf_checkpoint(str(path))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**parsed["config"]))
    return model, loading.load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
@every_file
def test_memory_is_that_of_the_largest_tensor(path):
    """Reading every tensor once takes the memory of the largest one, its copy if rows are permuted, and 40 MiB."""
    script = (
        "import re, sys, gguf\nfrom compressed_lm.models.gguf.checkpoint import GgufFile\n"
        # Not getrusage: its peak is at least that of the process that started this one.
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\nbefore = peak()\n"
        "file = GgufFile(sys.argv[1])\nlargest = max(file[name].nbytes for name in file.shapes)\n"
        "print(peak() - before, largest >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, cwd=ROOT)
    more, largest = map(int, done.stdout.split())
    print(f"{path.name}: {more / 1024:.0f} MiB above imports, largest tensor {largest / 1024:.0f} MiB")
    assert more < largest + (40 << 10)


@pytest.mark.slow("GGUFReader and transformers take half a minute and 2 to 4 GB")
@every_file
def test_tensors_and_metadata_are_exact(path):
    """Each tensor has the bits of transformers' reader, and each value of the header is that of gguf.GGUFReader."""
    found, header = GgufFile(path), read_header(path)
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith("GGUF."):
            value, expected = header.metadata[key], field.contents()
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert value == expected or np.float32(value) == np.float32(expected)
    states = theirs_of(path)[1]["tensors"]
    assert found.shapes == {name: tuple(tensor.shape) for name, tensor in states.items()}
    for name, tensor in states.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
    theirs_of.cache_clear()


@pytest.mark.slow("two models of 135 or 270 million parameters on the CPU")
@every_file
def test_logits_are_those_of_transformers(path):
    """32 tokens of text: the logits differ by at most 2e-4 from those of the same weights in transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    found = GgufFile(path)
    codec = read_tokenizer(found.tokenizer_files())
    tokens = np.asarray(codec.encode((ROOT / "README.md").read_bytes()))[None, :32].astype(np.int64)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**found.config)).float()
    own = model.state_dict()
    for name in found.shapes:
        own[name].copy_(torch.from_numpy(found[name]))
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(tokens)).logits.numpy()
    del model, own
    config = config_from(found.config)
    leaves = {tuple(name.split("/")): x for name, x in leaves_from(found.shapes, found.__getitem__, config)}
    params = flax.traverse_util.unflatten_dict(leaves)
    ours = jax.jit(lambda p, t: Transformer(config).apply({"params": p}, t))(params, jnp.asarray(tokens))
    print(f"{path.name}: {np.abs(ours - theirs).max():.2e} of logits up to {np.abs(theirs).max():.0f}")
    assert np.abs(ours - theirs).max() <= 2e-4
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.slow("transformers' conversion of a tokenizer and some hundred documents")
@every_file
def test_tokenizers_are_those_of_transformers(path):
    """Documents have the ids of transformers' conversion, and the codec reads the files."""
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    architecture, values, _ = mapping.get_gguf_tokenizer(str(path))
    theirs, _ = mapping.convert_gguf_tokenizer(architecture, values)
    theirs.encode_special_tokens = True
    codec, texts = read_tokenizer(GgufFile(path).tokenizer_files()), documents()
    if values["pre_tokenizer_type"] == "smollm":
        # transformers 5.24 does not separate the digits of this family from spaces, as the model's tokenizer does.
        assert not [token for token in values["tokens"] if re.search(r"\d.|.\d", token) and token[0] != "<"]
        texts = [re.sub(r"\d", "", text) for text in texts]
    if values["tokenizer_type"] == "llama":
        # transformers 5.24 merges runs of more than 31 spaces in another way than SentencePiece and llama.cpp, which
        # take the longest user-defined token.
        texts = [re.sub(" {32,}", " " * 31, text) for text in texts]
    assert len(texts) > 300
    expected = theirs.encode_batch(texts, add_special_tokens=False)
    for text, found in zip(texts, expected, strict=True):
        ids = codec.encode(text.encode())
        assert codec.decode(ids) == text.encode()
        if not re.search(r"[\u2581\ufffd\x00]", text):
            assert list(ids) == found.ids, text
