"""Tokenizers of GGUF files give the ids of the tokenizers that the files were made from."""

import io
import json

import numpy as np
import pytest

from compressed_lm.codecs import read_tokenizer
from compressed_lm.errors import InputError
from compressed_lm.models.gguf.byte_level import SPLITS
from compressed_lm.models.gguf.tokenizer import tokenizer_files
from compressed_lm.models.gguf.vocabulary import TokenType

tokenizers = pytest.importorskip("tokenizers")

TEXT = (
    "The numbers 12345 and 3.14159 don't matter; I'LL say it's 2024-05-06!\n\n  def f(x):\n\t\treturn x**2  # ok\r\n"
    "Stra\u00dfen und gr\u00f6\u00dfere H\u00e4user, wir h\u00e4tten's gern. "
    "\u6771\u4eac\u90fd\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002"
    "\u4eca\u65e5\u306f\u6691\u3044\u3002\u3000\uff11\uff12\uff13 "
    "HTTPServer  camelCase \u00bd \u2167 \U0001f600\u200d\U0001f600 e\u0301\u00a0end   "
)
TEXTS = [TEXT[at:] for at in range(0, len(TEXT), 7)] + ["", " ", "\n", "   a", TEXT * 3]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# The pre-tokenizers of the models' own tokenizer.json.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}"
    r"\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE = {"gpt-2": None, "smollm": "digits", "llama-bpe": LLAMA3, "qwen2": QWEN2, "tekken": TEKKEN, "gpt-4o": GPT4O}


def original(pre):
    """Returns a tokenizer trained with the pre-tokenizer of a family of models."""
    steps = tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=SPLITS[pre].ignore_merges))
    if PRE[pre] is None:
        tokenizer.pre_tokenizer = steps.ByteLevel(add_prefix_space=False)
    elif PRE[pre] == "digits":
        parts = [steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.pre_tokenizer = steps.Sequence(parts)
    else:
        split = steps.Split(tokenizers.Regex(PRE[pre]), "isolated")
        tokenizer.pre_tokenizer = steps.Sequence([split, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=steps.ByteLevel.alphabet(), special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def metadata(tokenizer, pre, **more):
    """Returns the metadata that `_set_vocab_gpt2` of llama.cpp writes, with two unused ids at the end."""
    names = {i: token for token, i in tokenizer.get_vocab().items()}
    size, added = len(names) + 2, tokenizer.get_added_tokens_decoder()
    kinds = [
        TokenType.UNUSED if i not in names else TokenType.NORMAL if i not in added else
        TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED
        for i in range(size)
    ]  # fmt: skip
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    found = dict(model="gpt2", pre=pre, tokens=[names.get(i, f"[PAD{i}]") for i in range(size)], merges=merges)
    found |= dict(token_type=np.array(kinds, np.int32), bos_token_id=1, eos_token_id=2, padding_token_id=2) | more
    found = {key: value for key, value in found.items() if value is not None}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


@pytest.mark.parametrize("pre", PRE)
def test_byte_level_tokenizers_have_the_models_ids(pre):
    """Ids, special and user-defined tokens are those of the tokenizer.json that the GGUF file was made from."""
    theirs = original(pre)
    files = tokenizer_files(metadata(theirs, pre), "llama")
    ours = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for text in [*TEXTS, "<|im_start|>user\nhi <think>a</think><|im_end|>"]:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False).endswith(text)
    decoder = theirs.get_added_tokens_decoder()
    assert {i: (t.content, t.special) for i, t in ours.get_added_tokens_decoder().items()} == {
        i: (t.content, t.special) for i, t in decoder.items()
    }
    assert ours.get_vocab_size() == theirs.get_vocab_size()  # the unused ids are no tokens
    codec = read_tokenizer(files)
    assert codec.eod_id == 2
    for text in TEXTS:
        ids = codec.encode(text.encode())
        assert codec.decode(ids) == text.encode()
        if "<think>" not in text:
            assert list(ids) == theirs.encode(text, add_special_tokens=False).ids


def test_settings_are_those_of_transformers(tmp_path):
    """AutoTokenizer reads the files: special tokens, chat template, length, and bos before each text if it is set."""
    transformers = pytest.importorskip("transformers")
    template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    for pre, add_bos, expected in (("llama-bpe", None, True), ("qwen2", None, False), ("qwen2", True, True)):
        values = metadata(original(pre), pre, add_bos_token=add_bos)
        values |= {"tokenizer.chat_template": template, "llama.context_length": 4096}
        files = tokenizer_files(values, "llama")
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        found = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert (found.bos_token, found.eos_token, found.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
        assert found.model_max_length == 4096
        assert found.apply_chat_template([{"content": "Hi"}], tokenize=False) == "<|im_start|>Hi<|im_end|>"
        assert (found("a b")["input_ids"][0] == 1) is expected
        assert json.loads(files["tokenizer_config.json"])["add_bos_token"] is expected


USER = ["<table>", "\u2581\u2581", "\n\n"]


def sentencepiece_model(prefix):
    spm, model = pytest.importorskip("sentencepiece"), io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20), model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=prefix, remove_extra_whitespaces=False, minloglevel=2,
        allow_whitespace_only_pieces=True, user_defined_symbols=USER, character_coverage=0.99, hard_vocab_limit=False,
        bos_id=1, eos_id=2, unk_id=0, pad_id=3,
    )  # fmt: skip
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(model, *, prefix, gemma=False):
    """Returns the metadata that `_set_vocab_sentencepiece` of llama.cpp writes."""
    kinds = []
    for i in range(model.vocab_size()):
        name = next((n for n in ("unknown", "control", "unused", "byte") if getattr(model, f"is_{n}")(i)), "normal")
        name = "user_defined" if model.id_to_piece(i) in USER else "control" if gemma and name == "unknown" else name
        kinds.append(TokenType[name.upper()])
    tokens = [model.id_to_piece(i) for i in range(model.vocab_size())]
    tokens = [
        t.replace("\u2581", " ") if k == TokenType.USER_DEFINED else t for t, k in zip(tokens, kinds, strict=True)
    ]
    found = dict(model="llama", pre="default", tokens=tokens + ["[PAD1]"], token_type=np.array([*kinds, 5], np.int32))
    found["scores"] = np.array([*(model.get_score(i) for i in range(len(tokens))), -1e4], np.float32)
    found |= dict(bos_token_id=1, eos_token_id=2, unknown_token_id=0, padding_token_id=3)
    if prefix is not None:
        found["add_space_prefix"] = prefix
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


@pytest.mark.parametrize(
    ("prefix", "stored", "gemma"), [(True, None, False), (True, True, False), (False, False, True)]
)
def test_sentencepiece_models_have_the_models_ids(prefix, stored, gemma):
    """Ids are those of the tokenizer.model, with runs of spaces, user-defined tokens, byte pieces and the prefix."""
    theirs = sentencepiece_model(prefix)
    files = tokenizer_files(sentencepiece_metadata(theirs, prefix=stored, gemma=gemma), "gemma3" if gemma else "llama")
    ours = type(theirs)(model_proto=files["tokenizer.model"])
    texts = [*TEXTS, "a<table>b  c   d    e\n\n\nf", "\u2581 x"]
    assert ours.encode(texts) == theirs.encode(texts)
    for name in ("bos", "eos", "unk", "pad"):
        assert getattr(ours, f"{name}_id")() == getattr(theirs, f"{name}_id")()
    settings = json.loads(files["tokenizer_config.json"])
    assert settings["tokenizer_class"] == ("GemmaTokenizer" if gemma else "LlamaTokenizer")
    assert (settings["add_prefix_space"], settings["add_bos_token"], settings["eos_token"]) == (prefix, True, "</s>")
    codec = read_tokenizer(files)
    for text in texts:
        ids = codec.encode(text.encode())
        assert codec.decode(ids) == text.encode()
        if not prefix and "\u2581" not in text:
            assert list(ids) == theirs.encode(text)


def test_old_files_of_one_tokenizer_are_read():
    """Without `pre`, the architectures gpt2, qwen2 and qwen3 have only one; for llama it is unknown."""
    values = metadata(original("qwen2"), None)
    assert b"{1,3}" not in tokenizer_files(values, "qwen2")["tokenizer.json"]
    with pytest.raises(InputError, match="The file is old: get one that a newer llama.cpp wrote. Known: gpt-2, "):
        tokenizer_files(values, "llama")


def test_unsupported_tokenizers_are_refused():
    """Other kinds, unknown splits, and lists that contradict each other; a file without a vocabulary has no files."""
    assert tokenizer_files({}, "llama") == {}
    assert tokenizer_files({"tokenizer.ggml.model": "no_vocab"}, "llama") == {}
    good = metadata(original("qwen2"), "qwen2")

    def refuse(message, **changes):
        values = good | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        with pytest.raises(InputError, match=message):
            tokenizer_files({k: v for k, v in values.items() if v is not None}, "llama")

    refuse("of the kind 'bert', which is not supported. Supported: gpt2 .* and llama", model="bert")
    refuse("pre = 'kimi-k2', so it is unknown how text is split into tokens. Known: .*smollm", pre="kimi-k2")
    refuse("tokenizer without tokens", tokens=None)
    refuse("has no tokenizer.ggml.merges", merges=None)
    refuse("the merge 'a b c'; two tokens were expected", merges=["a b c"])
    refuse("and tokenizer.ggml.token_type is not a list of as many numbers", token_type=np.ones(3, np.int32))
    refuse("a token of the unknown type 9", token_type=np.full(len(good["tokenizer.ggml.tokens"]), 9, np.int32))
    tokens = list(good["tokenizer.ggml.tokens"])
    tokens[50] = tokens[51]
    refuse("twice, so that its ids are not defined", tokens=tokens)
    scores = np.zeros(len(tokens), np.float32)
    refuse("has no unknown token", model="llama", scores=scores, unknown_token_id=10**6)
