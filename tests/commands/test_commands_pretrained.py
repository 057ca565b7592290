"""Commands `generate` and `evaluate` with an imported model: chats, special tokens, its codec, no training store."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.cli import main
from compressed_lm.codecs import chat
from compressed_lm.evaluation import sample_tokens
from compressed_lm.models import Transformer, shift_right
from compressed_lm.training import load_run

tokenizers = pytest.importorskip("tokenizers")
numpy_files = pytest.importorskip("safetensors.numpy")
pytest.importorskip("jinja2")

TEXT = "The capital of France is Paris. A token is not a word, and 1905 was a year. " * 20
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, HEAD, LAYERS, V = 16, 8, 1, 304
CONFIG = dict(
    model_type="llama",
    vocab_size=V,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=HEAD,
    intermediate_size=32,
    hidden_act="silu",
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
    bos_token_id=1,
    eos_token_id=0,
)


def write(folder, **settings):
    """Writes a small random Llama with a chat template as a Hugging Face checkpoint."""
    folder.mkdir()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[0, 2])))
    draw = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (V, WIDTH), "lm_head.weight": (V, WIDTH), "model.norm.weight": (WIDTH,)}
    layer = {f"self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
    layer |= {"mlp.gate_proj.weight": (32, WIDTH), "mlp.up_proj.weight": (32, WIDTH)}
    layer |= {"mlp.down_proj.weight": (WIDTH, 32)}
    layer |= {"input_layernorm.weight": (WIDTH,), "post_attention_layernorm.weight": (WIDTH,)}
    shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    tensors = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    numpy_files.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of the imported model."""
    folder = tmp_path_factory.mktemp("imported")
    source = write(folder / "source", chat_template=TEMPLATE, bos_token="<|im_start|>", eos_token="<|im_end|>")
    assert main(["import", str(source), f"--out={folder}/run"]) == 0
    return folder / "run"


def said(run, codec, ids, start, n_tokens):
    """Returns the text of the most likely continuation."""
    loaded = load_run(run)
    settings = dict(n_tokens=n_tokens, eod_id=0, n_ids=codec.vocab_size, temperature=0, start=start, stop=(0, 2))
    found = sample_tokens(loaded.params, loaded.model_config, ids, **settings)
    return codec.decode(np.concatenate([np.zeros(0, np.int32), *found])).decode(errors="replace")


def test_a_chat_answers(run, capsys):
    """`--chat` prints the most likely answer alone; the template's special tokens are ids, and no begin is added."""
    codec = codecs.load(run / "codec")
    for more, messages in (
        ([], chat.messages_of("Who?")),
        (["--system=Be brief."], chat.messages_of("Who?", system="Be brief.")),
    ):
        ids = codecs.prompt_ids(codec, chat.render(TEMPLATE, messages))
        assert ids[0] == 1 and ids[-2] != 1
        capsys.readouterr()
        assert main(["generate", str(run), "--chat", "--prompt=Who?", "--n_tokens=9", *more]) == 0
        assert capsys.readouterr().out == said(run, codec, ids, (), 9) + "\n"


def test_a_plain_prompt_is_continued(run, capsys):
    """A prompt starts as the model's tokenizer starts it; with --special its special tokens are ids without text."""
    codec = codecs.load(run / "codec")
    greedy = ["--temperature=0", "--n_tokens=5"]
    capsys.readouterr()
    assert main(["generate", str(run), "--prompt=A token", *greedy]) == 0
    assert capsys.readouterr().out == "A token" + said(run, codec, codec.encode(b"A token"), (), 5) + "\n"
    assert main(["generate", str(run), "--prompt=<|im_start|>A", "--special", *greedy]) == 0
    ids = codecs.prompt_ids(codec, "<|im_start|>A")
    assert capsys.readouterr().out == "A" + said(run, codec, ids, (), 5) + "\n" and ids[0] == 1
    assert main(["generate", str(run), *greedy]) == 0
    assert capsys.readouterr().out == said(run, codec, ids[:0], (0,), 5) + "\n"
    assert main(["generate", str(run), "--prompt=A", "--n_tokens=99", "--temperature=0"]) == 0
    assert "warning: 100 positions may be needed" in capsys.readouterr().err


def test_a_sample_stops_at_every_end_of_the_model(run):
    """The ends of config.json, generation_config.json and the template stop a sample."""
    codec, loaded = codecs.load(run / "codec"), load_run(run)
    record = json.loads((run / "config.json").read_text())
    special = codecs.special_tokens_of(codec, record["imported"])
    assert set(special.stop) == {0, 2} and special.length == 64
    kernel = jnp.zeros_like(loaded.params["unembed"]["kernel"]).at[:, 2].set(1)
    params = jax.tree.map(jnp.ones_like, loaded.params) | {"unembed": {"kernel": kernel}}
    settings = dict(n_tokens=4, eod_id=0, temperature=0, n_ids=codec.vocab_size)
    sample = lambda **more: np.concatenate(  # noqa: E731
        list(sample_tokens(params, loaded.model_config, np.array([5]), **settings, **more))
    )
    assert sample().tolist() == [2] * 4 and not len(sample(stop=special.stop))


def test_what_a_chat_needs(run, tmp_path, capsys):
    """Without a template, or a system message without a chat, the error says what to do."""
    assert main(["generate", str(run), "--system=x"]) == 2
    assert "--system was given without --chat" in capsys.readouterr().err
    source = write(tmp_path / "base")
    assert main(["import", str(source), f"--out={tmp_path}/run"]) == 0
    assert main(["generate", f"{tmp_path}/run", "--chat", "--prompt=x"]) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_an_imported_model_is_evaluated_on_text(run, tmp_path, capsys):
    """A corpus or its store gives the same bits per byte, those of the logits; neither codec nor training store."""
    (tmp_path / "a.txt").write_text(TEXT)
    corpus, table = f"text:{tmp_path}/*.txt", f"--table={tmp_path}/rows.jsonl"
    assert main(["evaluate", str(run), f"--corpus={corpus}", table]) == 0
    assert f"evaluate {run}: 9 of 9 rows" in capsys.readouterr().err
    compress = ["compress", f"--corpus={corpus}", f"--codec={run}/codec", f"--out={tmp_path}/store"]
    assert main(compress) == 0
    assert main(["evaluate", str(run), f"--store={tmp_path}/store", "--batch_size=1", table]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["bits_per_byte"] == pytest.approx(rows[1]["bits_per_byte"], rel=1e-6)
    assert rows[0]["tokens"] == rows[0]["bytes"] == 0 and rows[0]["validation_bytes"] == len(TEXT)
    loaded, codec = load_run(run), codecs.load(run / "codec")
    ids = np.append(codec.encode(TEXT.encode()), 0)
    padded = np.pad(ids, (0, -len(ids) % 64)).reshape(-1, 64)
    logits = Transformer(loaded.model_config).apply({"params": loaded.params}, shift_right(jnp.asarray(padded), 0))
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), padded[..., None], -1).reshape(-1)[: len(ids)]
    assert rows[0]["bits_per_byte"] == pytest.approx(nats.sum() / np.log(2) / len(TEXT), rel=1e-5)


def test_what_an_evaluation_needs(run, tmp_path, capsys):
    """Documents come from one place; a trained run needs the store of its training text, and a run its codec."""
    assert main(["evaluate", str(run)]) == 2
    assert "No documents to evaluate were given" in capsys.readouterr().err
    assert main(["evaluate", str(run), f"--store={tmp_path}", "--corpus=installed_docs"]) == 2
    assert "given twice, by --store and --corpus" in capsys.readouterr().err
    trained = tmp_path / "trained"
    trained.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (trained / path.name).write_bytes(path.read_bytes())
    record = json.loads((trained / "config.json").read_text())
    record["packed"]["next_index"] = 7
    (trained / "config.json").write_text(json.dumps(record))
    (tmp_path / "a.txt").write_text(TEXT)
    corpus = [f"--corpus=text:{tmp_path}/*.txt", "--split=train"]
    assert main(["evaluate", str(trained), *corpus]) == 2
    assert f"{trained} holds no codec" in capsys.readouterr().err
    assert main(["evaluate", str(trained), *corpus, f"--codec={run}/codec"]) == 2
    assert "was trained for 7 steps" in (message := capsys.readouterr().err) and "--train_store DIR" in message
