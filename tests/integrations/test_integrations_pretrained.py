"""Tokenizers of real GGUF files: AutoTokenizer has the codec's ids from the files that `export` writes.

The files are searched in the folder named by COMPRESSED_LM_MODELS; `make test` installs SmolLM2 there.
"""

import os
import pathlib
import re

import pytest

from compressed_lm import codecs, integrations

transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

FOLDER = os.environ.get("COMPRESSED_LM_MODELS", "")
FILES = sorted(pathlib.Path(FOLDER).rglob("*.gguf")) if FOLDER else []
SKIPPED = pytest.param(None, marks=pytest.mark.skip(f"no *.gguf in COMPRESSED_LM_MODELS={FOLDER!r}"))


@pytest.mark.slow("reads 2,000 documents")
@pytest.mark.parametrize("path", FILES or [SKIPPED], ids=lambda path: path and path.stem)
def test_ids_of_pretrained_tokenizers_are_equal_on_2000_documents(path, exported, languages, edges):
    """Ids are equal on C4, code, German, Japanese and edge cases, where text is text and every byte has a token.

    Both forms decode them to the document. Left out is text that only the codec keeps: bytes without a token, which it
    escapes, and for a tokenizer.model its sign for a space, NUL and U+FFFD.
    """
    from compressed_lm.models.gguf.checkpoint import GgufFile

    checkpoint = GgufFile(path)
    config = dict(checkpoint.config)
    codec = codecs.read_tokenizer(checkpoint.tokenizer_files(), eod=config["eos_token_id"])
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id") if config.get(name) is not None}
    files = integrations.export_tokenizer(codec, special=special, model_type=config["model_type"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported(codec, files=files, config=config))
    missing = getattr(codec, "missing", b"")
    lost = re.compile(b"[" + re.escape(missing) + b"]" if missing else "\0|\u2581|\ufffd".encode())
    texts = [text for text in languages + edges if not lost.search(text.encode())]
    assert len(texts) > 1_990
    found = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = codec.encode_batch([text.encode() for text in texts])
    different = [text for text, a, b in zip(texts, found, ids, strict=True) if a != b.tolist()]
    assert not different, [text[:50] for text in different]
    assert codec.decode_batch(ids) == [text.encode() for text in texts]
    assert tokenizer.batch_decode(found, clean_up_tokenization_spaces=False) == texts
    print(f"{path.stem}: {len(texts):,} documents, {sum(map(len, found)):,} ids, {type(tokenizer).__name__}")
    if missing:
        text = "a\u10ff00 \x04b"
        assert codec.decode(codec.encode(text.encode())) == text.encode() and tokenizer.decode(tokenizer(text)) != text
