"""tokenizer.json of SentencePiece models with user-defined symbols, as Gemma's."""

import io
import json

import pytest
import sentencepiece

from compressed_lm import codecs
from compressed_lm.codecs import sentencepiece_json

tokenizers = pytest.importorskip("tokenizers")

LINES = ["def run(self): return self.value  # Grüße, これはテキスト", "while x < 10:\t\t<b>x</b>  the  cat ran"] * 20
SYMBOLS = ["\u2581" * n for n in range(2, 8)] + ["\n\n", "<b>", "<b>x", "xx"]
TEXTS = [
    *LINES[:2],
    "",
    *(" " * n + "run" for n in range(40)),
    "a\n\n\n\n\nb  \n\n  c",
    "<b>x</b><b><b>xxxx xxx",
    "<s>a</s><unk>",
    "\x01\x02é\U0001f600 \u2603",
]


def trained(**settings):
    """Returns a SentencePiece BPE model like Gemma's, with user-defined runs of spaces."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=out,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
        **dict(unk_id=0, bos_id=1, eos_id=2),
        **settings,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def model():
    return trained(user_defined_symbols=SYMBOLS)


def test_ids_are_those_of_sentencepiece(model):
    """Texts with runs of spaces of all lengths, and with overlapping symbols, have SentencePiece's ids, and come back.

    The conversion of transformers joins spaces to other runs.
    """
    found = tokenizers.Tokenizer.from_str(sentencepiece_json.tokenizer_json(model).decode())
    found.encode_special_tokens = True
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in TEXTS:
        ids = found.encode(text).ids
        assert ids == original.encode(text), text
        assert found.decode(ids, skip_special_tokens=False) == text
    assert found.encode("  <b>").tokens == ["\u2581\u2581", "<b>"]


def test_models_without_symbols_have_no_file():
    """transformers reads them from the tokenizer.model."""
    assert sentencepiece_json.tokenizer_json(trained()) is None
    assert set(codecs.tokenizer_files(codecs.read_tokenizer({"tokenizer.model": trained()}))) == {
        *("tokenizer.model", "tokenizer_config.json")
    }


@pytest.mark.parametrize("adds", [True, False])
def test_transformers_reads_it_and_an_import_the_model(model, adds, tmp_path):
    """AutoTokenizer has the codec's ids, and its begin of a text if there is one; an import gives the same codec."""
    transformers = pytest.importorskip("transformers")
    config = dict(tokenizer_class="GemmaTokenizer", add_bos_token=adds, bos_token="<s>", eos_token="</s>")
    codec = codecs.read_tokenizer({"tokenizer.model": model, "tokenizer_config.json": json.dumps(config).encode()})
    for name, content in codecs.tokenizer_files(codec).items():
        (tmp_path / name).write_bytes(content)
    for values in (None, dict(model_type="gemma3_text"), dict(model_type="llama")):
        if values:
            (tmp_path / "config.json").write_text(json.dumps(values))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        for text in TEXTS:
            ids = codec.encode(text.encode()).tolist()
            assert theirs(text, split_special_tokens=True)["input_ids"] == [1] * adds + ids, text
        assert theirs("<s>a", add_special_tokens=False)["input_ids"] == codecs.prompt_ids(codec, "<s>a").tolist()
    again = codecs.read_tokenizer(tmp_path, eod=2)
    assert again.fingerprint == codec.fingerprint and again.name == "sentencepiece"
