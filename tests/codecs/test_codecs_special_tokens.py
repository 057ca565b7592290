"""Special tokens of imported models: in prompts, before texts, as stops, in exported files."""

import io
import json

import numpy as np
import pytest
import sentencepiece

from compressed_lm import codecs
from compressed_lm.codecs import chat, special_tokens
from compressed_lm.errors import InputError

tokenizers = pytest.importorskip("tokenizers")

TEXT = "def run(self): return self.value  # Grüße, これはテキスト\n" * 30
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SETTINGS = dict(
    tokenizer_class="PreTrainedTokenizerFast",
    bos_token="<|im_start|>",
    eos_token=dict(__type="AddedToken", content="<|im_end|>", lstrip=False, rstrip=False, normalized=False),
    pad_token="<|pad|>",
    auto_map=dict(AutoTokenizer=["code.Tokenizer", None]),
)


def byte_level(**post):
    """Returns a byte-level tokenizer.json with the special tokens of a chat; the last one takes white space with it."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.add_special_tokens([tokenizers.AddedToken("<|user|>", rstrip=True, special=True)])
    made.add_special_tokens([tokenizers.AddedToken("<|tool|>", lstrip=True, special=True)])
    if post:
        made.post_processor = tokenizers.processors.TemplateProcessing(**post)
    return made.to_str().encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder of a chat model's tokenizer, as `save_pretrained` writes it."""
    made = tmp_path_factory.mktemp("model")
    (made / "tokenizer.json").write_bytes(byte_level())
    (made / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="module")
def codec(folder):
    return codecs.read_tokenizer(folder)


def test_prompts_have_the_ids_of_transformers(folder, codec):
    """Special tokens in prompts have their own ids, with the white space that they take, as in `transformers`."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (
        TEXT,
        "",
        "<|im_start|>user\nGrüße<|im_end|>\n<|im_start|>assistant\n",
        "a  <|user|>  \n b <|tool|> c  <|user|><|tool|>  <|im_end|>",
        "<|im_<|im_start|>|> <|im_end",
    ):
        ids = codecs.prompt_ids(codec, text)
        assert ids.dtype == np.int32 and ids.tolist() == theirs.encode(text, add_special_tokens=False)
        assert codec.decode(codecs.prompt_ids(codec, text, special=False)) == text.encode()
    messages = [dict(role="system", content="Be brief."), dict(role="user", content="Was ist <|x|>?")]
    rendered = chat.render(TEMPLATE, messages)
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert codecs.prompt_ids(codec, rendered).tolist() == expected


def test_the_chat_template_and_names_are_kept_outside_the_fingerprint(folder, codec, tmp_path):
    """They are saved with the codec, do not change its ids' fingerprint, and code named in them is dropped."""
    bare = codecs.read_tokenizer({"tokenizer.json": (folder / "tokenizer.json").read_bytes()}, eod=2)
    assert bare.fingerprint == codec.fingerprint and bare.settings is None and codec.eod_id == 2
    codecs.save(codec, tmp_path)
    loaded = codecs.load(tmp_path)
    settings = special_tokens.settings_of(loaded)
    assert settings["chat_template"] == TEMPLATE and "auto_map" not in settings
    assert special_tokens.settings_of(codecs.Bytes()) == {}


def test_templates_of_older_files(folder):
    """A template may also be in tokenizer_config.json (one or several by name) or chat_template.json."""
    table = {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
    several = [dict(name="tool_use", template="no"), dict(name="default", template=TEMPLATE)]
    for name, values in (
        ("tokenizer_config.json", dict(chat_template=TEMPLATE)),
        ("tokenizer_config.json", dict(chat_template=several)),
        ("chat_template.json", dict(chat_template=TEMPLATE)),
    ):
        found = codecs.read_tokenizer(table | {name: json.dumps(values).encode()}, eod=2)
        assert codecs.special_tokens_of(found, {}).template == TEMPLATE
    found = codecs.read_tokenizer(table | {"special_tokens_map.json": json.dumps(dict(eos_token="<|pad|>")).encode()})
    assert found.eod_id == 3
    with pytest.raises(InputError, match="tokenizer_config.json that cannot be read .* Copy it again"):
        codecs.read_tokenizer(table | {"tokenizer_config.json": b"{"}, eod=2)


def test_transformers_chats_with_the_exported_files(folder, codec, tmp_path):
    """AutoTokenizer has the imported template, begin, end and padding; ids given for them replace those."""
    transformers = pytest.importorskip("transformers")
    original = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [dict(role="user", content="Grüße  x")]
    for special, names in (
        (None, ["<|im_start|>", "<|im_end|>", "<|pad|>"]),
        (dict(bos_token_id=0, eos_token_id=[2, 0], pad_token_id=None), ["<|endoftext|>", "<|im_end|>", "<|pad|>"]),
    ):
        out = tmp_path / str(len(names[0]))
        out.mkdir()
        for name, content in codecs.tokenizer_files(codec, special=special).items():
            (out / name).write_bytes(content)
        theirs = transformers.AutoTokenizer.from_pretrained(out)
        assert [theirs.bos_token, theirs.eos_token, theirs.pad_token] == names
        assert theirs.apply_chat_template(messages, tokenize=True) == original.apply_chat_template(
            messages, tokenize=True
        )


def test_a_begin_is_put_before_texts_as_the_models_tokenizer_does(codec):
    """It is put there by add_bos_token or by the post-processor; a model trained here begins with end-of-document."""
    assert codecs.special_tokens_of(codec).start == (2,) == codecs.special_tokens_of(codec).stop
    imported = dict(bos_token_id=1, eos_token_id=2, stop_token_ids=[2, 0], max_position_embeddings=99)
    found = codecs.special_tokens_of(codec, imported)
    assert (found.start, found.first, found.stop, found.length) == ((), 2, (2, 0), 99)
    assert found.names == dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>")
    files = {"tokenizer.json": byte_level(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])}
    assert codecs.special_tokens_of(codecs.read_tokenizer(files, eod=2), imported).start == (1,)
    for adds in (True, False):
        settings = {"tokenizer_config.json": json.dumps(dict(add_bos_token=adds, bos_token="<|im_start|>")).encode()}
        found = codecs.special_tokens_of(codecs.read_tokenizer(files | settings, eod=2), {})
        assert found.start == ((1,) if adds else ()) and found.first == (1 if adds else 2)
    with pytest.raises(InputError, match="'x' was given as the id of a special token"):
        codecs.special_tokens_of(codec, dict(stop_token_ids=["x"]))


def test_a_turn_of_a_chat_ends(codec, folder):
    """The end of a turn in the template stops a sample, also if the model's end of text is another token."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "tokenizer_config.json"}
    assert codecs.special_tokens_of(codecs.read_tokenizer(files, eod=0), {}).stop == (0, 2)


def test_sentencepiece_has_control_tokens():
    """Control tokens of a tokenizer.model are special in prompts and text elsewhere; its settings are kept."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=out,
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        control_symbols=["<turn>"],
        user_defined_symbols=["<b>"],
        **dict(unk_id=0, bos_id=1, eos_id=2),
    )
    files = {"tokenizer.model": out.getvalue(), "tokenizer_config.json": json.dumps(dict(bos_token="<s>")).encode()}
    codec = codecs.read_tokenizer(files)
    assert special_tokens.ids_of(codec) == {"<unk>": 0, "<s>": 1, "</s>": 2, "<turn>": 3}
    ids = codecs.prompt_ids(codec, "<s>a<turn><b>").tolist()
    assert ids == [1, *codec.encode(b"a"), 3, *codec.encode(b"<b>")] and len(codec.encode(b"<b>")) == 1
    assert codec.decode(ids) == b"a<b>" and codec.decode(codec.encode(b"<turn>")) == b"<turn>"
    assert codecs.special_tokens_of(codec, dict(bos_token_id=1)).start == (1,)
    exported = json.loads(codecs.tokenizer_files(codec, special=dict(pad_token_id=0))["tokenizer_config.json"])
    assert (exported["bos_token"], exported["pad_token"], exported["add_prefix_space"]) == ("<s>", "<unk>", False)
