"""Codecs as tokenizers of transformers."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from compressed_lm import codecs, integrations, models
from compressed_lm.errors import InputError
from compressed_lm.integrations.special_tokens import SpecialTokens

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from compressed_lm.integrations.transformers import CompressedStreamer, CompressedTokenizer  # noqa: E402

NAMES = ["pieces16-en", "eiw16-en", "eiw16-word-en", "bytes", "bpe(v=512)", "sentencepiece(v=512)", "gzip(v=4096)"]
TEXT = "Hello, WORLD!  naïve 日本 👩‍👩‍👧‍👦 <|endoftext|> it’s 2,000\n"


@pytest.fixture(scope="module")
def tokenizers(built):
    """Returns a function from the name of a codec to its tokenizer of the Python class."""
    return lambda name: CompressedTokenizer(built(name))


@pytest.mark.parametrize("name", NAMES)
def test_text_goes_to_the_codecs_ids_and_back(tokenizers, built, edges, name):
    """Every text has the ids that the codec gives its UTF-8, alone and in a batch, and is decoded to itself."""
    tokenizer, texts = tokenizers(name), [TEXT, *edges]
    found = tokenizer(texts)
    assert found["input_ids"] == [built(name).encode(text.encode()).tolist() for text in texts]
    assert [len(mask) for mask in found["attention_mask"]] == [len(ids) for ids in found["input_ids"]]
    assert tokenizer.batch_decode(found["input_ids"]) == texts
    assert tokenizer.encode(TEXT) == tokenizer(TEXT)["input_ids"] == found["input_ids"][0]
    tokens = tokenizer.tokenize(TEXT)
    assert tokenizer.convert_tokens_to_ids(tokens) == found["input_ids"][0]
    assert tokenizer.convert_tokens_to_string(tokens) == TEXT
    assert len(tokenizer.get_vocab()) == len(tokenizer)


@pytest.mark.parametrize("name", ["eiw16-word-en", "eiw16-en", "bytes", "bpe(v=512)"])
def test_the_class_agrees_with_tokenizer_json(tokenizers, built, exported, edges, name):
    """Where both exist, the class and tokenizer.json give equal ids, offsets, padding, special tokens and text."""
    own, fast = tokenizers(name), transformers.AutoTokenizer.from_pretrained(exported(built(name)))
    assert fast.is_fast and not own.is_fast
    texts = [TEXT, "", *edges[-4:], "a"]
    options = [
        dict(return_offsets_mapping=True),
        dict(return_offsets_mapping=True, split_special_tokens=False),
        dict(return_special_tokens_mask=True, truncation=True, max_length=9),
        dict(padding=True, return_tensors="np", pad_to_multiple_of=8),
    ]
    for chosen in options:
        a, b = (t(texts, **chosen) for t in (own, fast))
        for key in a:
            assert np.array(a[key], object).tolist() == np.array(b[key], object).tolist(), (chosen, key)
    ids = own(TEXT, split_special_tokens=False)["input_ids"]
    for skip in (True, False):
        assert own.decode(ids, skip_special_tokens=skip) == fast.decode(ids, skip_special_tokens=skip)
    assert own.decode(ids[:12]) == fast.decode(ids[:12])  # may end within a character
    assert own.eos_token_id == fast.eos_token_id == codecs.eod_id(built(name))


def test_offsets_are_the_characters_of_tokens(tokenizers):
    """Offsets of a token are its characters; those of padding and special tokens are (0, 0)."""
    tokenizer = tokenizers("eiw16-en")
    found = tokenizer(["it was a dark night", "日本"], padding=True, return_offsets_mapping=True, return_tensors="pt")
    spans = found["offset_mapping"][0].tolist()
    assert "".join("it was a dark night"[a:b] for a, b in spans) == "it was a dark night"
    assert found["offset_mapping"].shape == (*found["input_ids"].shape, 2)
    n_bytes = int(found["attention_mask"][1].sum())
    assert {tuple(s) for s in found["offset_mapping"][1, :n_bytes].tolist()} <= {(0, 1), (1, 2), (0, 2)}
    short = tokenizer("it was a dark night", max_length=2, truncation=True, return_offsets_mapping=True)
    assert short["offset_mapping"] == [tuple(s) for s in spans[:2]]
    tokenizer.truncation_side = "left"
    last = tokenizer("it was a dark night", max_length=2, truncation=True, return_offsets_mapping=True)
    n = int(found["attention_mask"][0].sum())
    assert last["offset_mapping"] == [tuple(s) for s in spans[n - 2 : n]]


def test_offsets_are_refused_where_tokens_have_no_text(tokenizers):
    """A codec without token lengths says so, and names what to do."""
    with pytest.raises(InputError, match="asked for offsets .* no text of their own. Leave the option out"):
        tokenizers("pieces16-en")("text", return_offsets_mapping=True)


def test_pairs_words_and_tokens(tokenizers):
    """Pairs follow one another; ids pass through; words without their spaces are refused."""
    tokenizer = tokenizers("pieces16-en")
    first, second = (tokenizer(text)["input_ids"] for text in ("a dog", "two cats"))
    assert tokenizer("a dog", "two cats")["input_ids"] == first + second
    assert tokenizer([("a dog", "two cats")])["input_ids"] == [first + second]
    assert tokenizer([first])["input_ids"] == [first]
    assert tokenizer([])["input_ids"] == []
    with pytest.raises(InputError, match="spaces between words are tokens, too. Pass the text"):
        tokenizer(["a", "dog"], is_split_into_words=True)


def test_surrogates_are_bytes_or_refused(tokenizers):
    """U+DC80 to U+DCFF are bytes of invalid UTF-8, which come back on request; other surrogates are refused."""
    data = b"caf\xe9 \xff\xfe"
    text = data.decode("utf-8", "surrogateescape")
    tokenizer = CompressedTokenizer(codecs.load("eiw16-en"), errors="surrogateescape")
    found = tokenizer(text, return_offsets_mapping=True)
    assert tokenizer.codec.decode(found["input_ids"]) == data and tokenizer.decode(found["input_ids"]) == text
    assert found["offset_mapping"][-1][1] == len(text)
    assert tokenizers("eiw16-en").decode(found["input_ids"]) == "caf\ufffd \ufffd\ufffd"
    with pytest.raises(InputError, match=r"surrogate U\+D800 at character 1, which has no UTF-8. Remove it"):
        tokenizer("a\ud800")


def test_special_tokens_are_text_unless_requested(tokenizers):
    """Text that looks like a special token is text; with split_special_tokens=False it is the token."""
    tokenizer = tokenizers("pieces16-en")
    text = "one<|endoftext|>two"
    assert tokenizer.eos_token_id not in tokenizer(text)["input_ids"]
    ids = tokenizer(text, split_special_tokens=False)["input_ids"]
    assert ids == [*tokenizer("one")["input_ids"], tokenizer.eos_token_id, *tokenizer("two")["input_ids"]]
    assert tokenizer.decode(ids) == text and tokenizer.decode(ids, skip_special_tokens=True) == "onetwo"
    assert tokenizer.decode([-100, *ids, tokenizer.pad_token_id, 65_543], skip_special_tokens=True) == "onetwo"
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == codecs.eod_id(tokenizer.codec)


@pytest.mark.parametrize("v", [300, 510, 511, 512, 4096])
def test_special_ids_fit_into_models_of_the_codec(v):
    """Padding has a row of every model of the codec; it is the end of a document if there is no other row."""

    class Sized(codecs.Bytes):
        vocab_size = v

    tokens = SpecialTokens.of(Sized())
    assert tokens.eos_id == v and v <= tokens.pad_id < models.model_vocab_size(v)
    assert (tokens.pad_id == tokens.eos_id) == (models.model_vocab_size(v) == v + 1)


def test_added_tokens_follow_the_special_ones(tokenizers, tmp_path):
    """Tokens that a user adds get the next ids, and are kept when the tokenizer is saved."""
    tokenizer = tokenizers("eiw16-en")
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]}) == 1
    assert tokenizer.convert_tokens_to_ids("<|user|>") == tokenizer.codec.vocab_size + 2 == len(tokenizer) - 1
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for t in (tokenizer, loaded):
        ids = t.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenizer_kwargs={"split_special_tokens": False}, return_dict=False
        )
        assert ids == [tokenizer.codec.vocab_size + 2, *tokenizer("Hi")["input_ids"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_tokenizer_loads_everywhere(tokenizers, built, exported, tmp_path, name):
    """save_pretrained, export_tokenizer, AutoTokenizer, pickle and deepcopy give the same ids."""
    tokenizer = tokenizers(name)
    tokenizer.save_pretrained(tmp_path / "a")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "a", trust_remote_code=False)
    loaded.save_pretrained(tmp_path / "b")
    forms = [
        loaded,
        CompressedTokenizer.from_pretrained(tmp_path / "b"),
        transformers.AutoTokenizer.from_pretrained(exported(built(name), files=integrations.python_files(built(name)))),
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
    ]
    for form in forms:
        assert isinstance(form, CompressedTokenizer)
        assert form([TEXT, ""])["input_ids"] == tokenizer([TEXT, ""])["input_ids"]
        assert form.special_tokens_map == tokenizer.special_tokens_map and len(form) == len(tokenizer)
        assert form.codec.fingerprint == built(name).fingerprint


@pytest.mark.parametrize(
    "model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2", "gemma3_text", "olmo2", "phi3"]
)
def test_folders_of_models_give_the_class(built, exported, model_type):
    """Beside a model of any supported type, AutoTokenizer still gives the codec's tokenizer."""
    config = {"model_type": model_type, "vocab_size": 65_544}
    loaded = transformers.AutoTokenizer.from_pretrained(exported(built("pieces16-en"), config=config))
    assert isinstance(loaded, CompressedTokenizer)
    for name in ("eiw16-word-en", "bytes", "bpe(v=512)"):
        files = integrations.export_tokenizer(built(name), model_type=model_type)
        assert ("tokenization_plain.py" in files) == (model_type == "qwen2")  # whose class replaces a tokenizer.json
        folder = exported(built(name), files=files, config=config)
        for trust in (None, False, True):
            fast = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            assert fast.is_fast and fast(TEXT)["input_ids"] == built(name).encode(TEXT.encode()).tolist()


def test_another_codec_in_the_folder_is_refused(built, exported):
    """A codec that was exchanged, a missing one, and a wrong special id are errors."""
    folder = exported(built("pieces16-en"))
    codecs.save(codecs.load("eiw16-en"), folder / "codec")
    with pytest.raises(InputError, match=r"codec with the fingerprint .* has eiw.* Write both again"):
        CompressedTokenizer.from_pretrained(folder)
    (folder / "codec" / "codec.json").unlink()
    with pytest.raises(InputError, match="has no codec: codec/codec.json is missing"):
        CompressedTokenizer.from_pretrained(folder)
    with pytest.raises(InputError, match=r"eos_token_id = 5 was requested .* end of a document is 65536. Leave it out"):
        integrations.export_tokenizer(built("pieces16-en"), special={"eos_token_id": 5})


@pytest.mark.slow("starts Python twice")
def test_without_the_import_the_folder_says_what_to_do(built, exported):
    """Without the import, trust_remote_code=True loads the class, and the folder's page says how to do without."""
    folder = exported(built("pieces16-en"))
    assert "import compressed_lm.integrations.transformers\n" in (folder / "TOKENIZER.md").read_text()
    code = "from transformers import AutoTokenizer as A; print(A.from_pretrained({!r}, trust_remote_code={})('a b'))"
    trusted, refused = (
        subprocess.run([sys.executable, "-c", code.format(str(folder), trust)], capture_output=True, text=True)
        for trust in (True, False)
    )
    assert str(built("pieces16-en").encode(b"a b").tolist()) in trusted.stdout, trusted.stderr
    assert "contains custom code" in refused.stderr and str(folder) in refused.stderr


def test_labels_of_the_language_model_collator(tokenizers):
    """DataCollatorForLanguageModeling pads batches, and padding has no loss."""
    tokenizer = tokenizers("pieces16-en")
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collate([tokenizer(text) for text in ("a longer text than the other", "short")])
    assert batch["input_ids"].shape == batch["labels"].shape
    padded = batch["attention_mask"] == 0
    assert padded.any() and (batch["labels"][padded] == -100).all() and (batch["labels"][~padded] >= 0).all()


@pytest.mark.slow("starts processes")
def test_data_sets_map_in_two_processes(tokenizers, code):
    """datasets.map with two processes gives the codec's ids; a use of the tokenizer does not change its hash."""
    datasets = pytest.importorskip("datasets")
    from datasets.fingerprint import Hasher

    tokenizer = tokenizers("pieces16-en")
    before = Hasher.hash(tokenizer)
    found = datasets.Dataset.from_dict({"text": code}).map(lambda b: tokenizer(b["text"]), batched=True, num_proc=2)
    assert found["input_ids"][:] == tokenizer(code)["input_ids"]
    assert Hasher.hash(tokenizer) == before


@pytest.mark.parametrize("name", ["pieces16-en", "eiw16-en", "bytes", "gzip(v=4096)"])
def test_generated_text_is_streamed(tokenizers, name):
    """A streamer gives the text of ids one by one; `decode` of a part gives what it determines."""
    tokenizer, text = tokenizers(name), "The Cat sat\n\n  on THE mat. 日本 Ünï\n Then"
    ids, parts = torch.tensor(tokenizer(text)["input_ids"]), []
    streamer = CompressedStreamer(tokenizer, skip_prompt=True, write=parts.append)
    streamer.put(torch.tensor([[5, 6]]))
    for i in [*ids, torch.tensor(tokenizer.eos_token_id)]:
        streamer.put(i.reshape(1))
    streamer.end()
    assert "".join(parts).rstrip("\ufffd") == text and tokenizer.decode(ids) == text
    assert all(text.startswith(tokenizer.decode(ids[:n]).rstrip("\ufffd ")) for n in range(len(ids)))


def test_text_streamer_of_transformers_prints_strings(tokenizers, capsys):
    """TextStreamer of transformers is exact where tokens are strings."""
    tokenizer, text = tokenizers("eiw16-word-en"), "The Cat sat\n\n  on THE mat.\n Then"
    streamer = transformers.TextStreamer(tokenizer)
    for i in tokenizer(text)["input_ids"]:
        streamer.put(torch.tensor([i]))
    streamer.end()
    assert capsys.readouterr().out == text + "\n"


def test_a_model_generates_with_it(tokenizers):
    """`generate` takes what the tokenizer gives, and its new ids are decoded."""
    tokenizer = tokenizers("bytes")
    config = transformers.LlamaConfig(
        vocab_size=264, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    out = model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(out[0]).startswith("Once")


@pytest.mark.slow("reads 2,000 documents")
@pytest.mark.parametrize(
    "name",
    [
        *("eiw16-word-en", "eiw16-en", "pieces16-en", "bytes", "bpe(v=4096)", "sentencepiece(model=bpe,v=2048)"),
        *("sentencepiece(v=2048)", "ac(v=65536)"),
    ],
)
def test_ids_are_equal_on_2000_documents(built, exported, languages, edges, name):
    """AutoTokenizer gives the codec's ids on 2,000 documents (C4, code, German, Japanese) and edge cases, and back."""
    texts = [text[:300] for text in languages[::100]] if name.startswith("ac") else languages + edges
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported(built(name)))
    found = tokenizer(texts)["input_ids"]
    different = [
        text
        for text, ids, expected in zip(texts, found, built(name).encode_batch([t.encode() for t in texts]), strict=True)
        if ids != expected.tolist()
    ]
    assert not different
    assert tokenizer.batch_decode(found, clean_up_tokenization_spaces=False) == texts
    print(f"{name}: {len(texts):,} documents, {sum(map(len, found)):,} ids, {type(tokenizer).__name__}")
