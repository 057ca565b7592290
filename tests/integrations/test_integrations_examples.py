"""Examples of the integrations."""

import pathlib
import runpy

import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "torch_llama.py"


def test_a_llama_learns_from_a_token_store(real_store, tmp_path):
    """The example lowers the loss within a few steps, and what it writes loads in transformers."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    store, out = str(real_store.path), tmp_path / "llama"
    options = ["--codec=bytes", "--steps=20", "--batch_size=4", "--seq_len=32", "--width=32", f"--out={out}"]
    results = main([store, store, *options])
    assert results["before"][0] == pytest.approx(5.58, abs=0.2)  # a guess among 264 ids
    assert results["after"][0] < 4
    assert results["after"][1] == pytest.approx(results["after"][0] * 1.4427, rel=0.02)  # a token is a byte
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    found = model.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(found[0]).startswith("def ")
