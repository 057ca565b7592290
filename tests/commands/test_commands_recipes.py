"""The paper's configurations have the paper's values, and their comments are true."""

import ast
import dataclasses
import pathlib
import re
import shlex

import pytest

from compressed_lm import codecs, configuration
from compressed_lm.codecs.eiw import Options
from compressed_lm.commands import commands as all_commands
from compressed_lm.exact import check_exactable
from compressed_lm.models import count_params, model_vocab_size, training_flops_per_token
from tests.commands import recipe_costs

RUNS = configuration.GIN_FILES / "runs"
RECIPE_FILES = sorted([*RUNS.glob("paper_*.gin"), *RUNS.glob("modern_*.gin")])
SIZES = ("25m", "113m", "403m", "2b")

# codec: (bytes per token on C4 (Table 2; gzip 65k Table 12; 24 bits A.1), bits per byte of 25m, 113m, 403m, 2b
# (Tables 15 and 16; 24 bits A.1)), in Lester et al. 2024.
PAPER = {
    "bytes": (1, "1.29 1.16 1.08 1.03"),
    "sentencepiece(v=32000)": (4.28, "1.12 1.01 0.94 0.87"),
    "ac(v=256)": (5.49, "1.46 1.46 1.46 1.46"),
    "ac(v=65536)": (10.98, "1.46 1.46 1.46 1.46"),
    "static_ac(v=256)": (1.73, "4.61 4.61 4.61 4.61"),
    "static_ac(v=65536)": (3.46, "4.60 4.60 4.62 4.62"),
    "gzip(v=256)": (2.23, "2.34 1.93 1.69 1.56"),
    "gzip(v=65536)": (4.47, "2.92 2.69 2.48 2.26"),
    "eiw(b=16,v=256)": (2.66, "1.47 1.23 1.09 0.99"),
    "eiw(b=16,v=65536)": (5.31, "1.25 1.12 1.02 0.94"),
    "eiw(b=24,v=256)": (3.15, "- - 1.394 -"),
    "eiw(b=24,v=65536)": (6.30, "- - 1.249 -"),
    "eiw(b=32,v=256)": (3.49, "2.05 1.94 1.83 1.65"),
    "eiw(b=32,v=65536)": (6.97, "1.95 1.85 1.74 1.63"),
    "eiw(b=64,v=256)": (4.16, "1.85 1.82 1.80 1.79"),
    "eiw(b=64,v=65536)": (8.33, "1.82 1.80 1.79 1.76"),
    "eiw(b=128,v=256)": (4.61, "1.71 1.71 1.71 1.71"),
    "eiw(b=128,v=65536)": (9.22, "1.70 1.69 1.68 1.67"),
}
RECIPES = {
    "paper": (
        dict(optimizer="adafactor", schedule="rsqrt", learning_rate=1.0, warmup_steps=10_000, weight_decay=0.0)
        | dict(grad_clip=0.0, z_loss=1e-4, seq_len=512, batch_size=256, steps=200_000, micro_batches=0),
        dict(position="relative", activation="relu", gated_mlp=True, dtype="bfloat16", n_buckets=32, max_distance=128)
        | dict(tie_embeddings=False, qk_norm=False, n_kv_heads=0),
    ),
    "modern": (
        dict(optimizer="muon", schedule="wsd", learning_rate=2e-3, warmup_steps="1%", weight_decay=0.1, grad_clip=1.0)
        | dict(z_loss=1e-4, seq_len=512, batch_size=256, steps=200_000),
        dict(position="rotary", activation="silu", gated_mlp=True, dtype="bfloat16", qk_norm=True, n_kv_heads=0),
    ),
}


def head(file):
    """Returns the lines of the comment at the top of a file, without comment marks."""
    lines = file.read_text().split("\ninclude")[0].splitlines()
    return [line.removeprefix("#").strip() for line in lines]


def row(file, name):
    """Returns the cells of a table row in a file's head, without notes in parentheses."""
    (line,) = [line for line in head(file) if line.startswith(name)]
    return line.removeprefix(name).split("(")[0].split()


def test_there_is_a_file_for_every_codec_of_the_paper():
    """Each codec of the paper has one paper_ file, named after it, with the paper's bytes per token."""
    found = {}
    for file in RUNS.glob("paper_*.gin"):
        configuration.load([str(file)])
        data = configuration.data()
        found[data.codec] = data.bytes_per_token
        name = data.codec.replace("(b=", "").replace(",", "_").replace("(", "_")
        assert file.stem == "paper_" + re.sub(r"[=)]", "", name)
    assert found == {codec: ratio for codec, (ratio, _) in PAPER.items()}


@pytest.mark.parametrize("file", RECIPE_FILES, ids=lambda file: file.stem)
def test_a_run_is_its_recipe_and_no_more(file):
    """All settings that affect learning have the values of the recipe, for every codec."""
    train, model = RECIPES[file.stem.split("_")[0]]
    configuration.load([f"runs/{file.name}"], ["model.size=25m"])
    config, shape = configuration.train(), configuration.model(264)
    assert {name: getattr(config, name) for name in train} == train
    assert {name: getattr(shape, name) for name in model} == model
    name, options = codecs.parse_spec(configuration.data().codec)
    if name == "eiw":
        assert Options(**options).fill == "node"


@pytest.mark.parametrize(
    "size, millions", [("3m", 3.15), ("25m", 25.2), ("113m", 113.2), ("403m", 402.7), ("2b", 1610)]
)
def test_sizes_are_those_of_table_4(size, millions):
    """Parameters outside the embeddings match papers/000 section 4.1 to three digits.

    Relative positions and norms are the difference.
    """
    configuration.load(["recipes/paper.gin"], [f"model.size={size}"])
    assert count_params(configuration.model(264)).non_embedding / 1e6 == pytest.approx(millions, rel=2e-3)
    configuration.load(["recipes/modern.gin"], [f"model.size={size}"])
    assert count_params(configuration.model(264)).non_embedding / 1e6 == pytest.approx(millions, rel=2e-3)


def test_m1_of_the_paper():
    """M1 is the 3m model with 1,024 bytes, 128 rows and 2.5 million steps, and can be made exact."""
    configuration.load(["m1/paper.gin"])
    config, shape = configuration.train(), configuration.model(model_vocab_size(256))
    assert (config.seq_len, config.batch_size, config.steps, config.schedule) == (1024, 128, 2_500_000, "rsqrt")
    assert (shape.d_model, shape.n_layers, configuration.data().codec) == (256, 3, "bytes")
    check_exactable(shape, config.seq_len)


@pytest.mark.parametrize("file", RECIPE_FILES, ids=lambda file: file.stem)
def test_the_head_of_a_file_is_true(file):
    """Figures in the head of a file are the paper's, and costs are those of the configuration."""
    configuration.load([str(file)])
    data = configuration.data()
    bits = {"paper": "bits per byte in the paper", "modern": "to beat, bits per byte"}[file.stem.split("_")[0]]
    assert row(file, "size") == list(SIZES)
    assert row(file, bits) == PAPER[data.codec][1].split()
    for size, flops, hours in zip(
        SIZES, row(file, "training FLOPs"), row(file, "v5e chip-hours at 50 % MFU"), strict=True
    ):
        config, shape = configuration.train(), configuration.model(model_vocab_size(data.vocab_size), size=size)
        exact = config.steps * config.batch_size * config.seq_len * training_flops_per_token(shape, seq_len=512)
        assert float(flops) == pytest.approx(exact, rel=5e-3)
        assert float(hours) == pytest.approx(exact / (0.5 * 197e12) / 3600, rel=5e-3)


@pytest.mark.parametrize("file", recipe_costs.FILES, ids=lambda file: file.stem)
def test_the_head_of_a_file_says_what_its_store_takes(file):
    """Text, size and cost in the head of a file are those of its settings; its first command takes enough text."""
    configuration.load([str(file)])
    data = configuration.data()
    text = 200_000 * 256 * 512 * PAPER.get(data.codec, (data.bytes_per_token,))[0]
    assert set(recipe_costs.formatted(file)) <= set(file.read_text().splitlines())
    assert float(row(file, "text  ")[0]) == pytest.approx(text / 1e9, abs=0.05)
    (given,) = re.findall(r"compress --corpus tfds:c4/en:3.1.0 --max_bytes (\d+) --codec", file.read_text())
    assert 1.01 * text <= int(given) <= 1.01 * text + 1e9 < 806e9  # at most C4
    ids = int(given) / data.bytes_per_token * (1 if data.vocab_size <= 256 else 2)
    assert ids < float(row(file, "token store")[0]) * 1e9 < 1.08 * ids


@pytest.mark.parametrize(
    "file", sorted(configuration.GIN_FILES.glob("**/*.gin")), ids=lambda f: str(f.relative_to(configuration.GIN_FILES))
)
def test_commands_in_comments_can_be_run(file, capsys):
    """Every `compressed-lm ...` command in the head of a file can be parsed, and its files exist."""
    text = re.sub(r"\\\n#\s*", "", file.read_text())
    lines = [line.removeprefix("#").split("  (or:")[0].strip() for line in text.splitlines() if line.startswith("#")]
    commands = [shlex.split(line) for line in lines if line.startswith("compressed-lm ")]
    assert commands or file.parent.name == "recipes" or "make demo" in text
    for command in commands:
        arguments = all_commands()[command[1]].parser().parse_args(command[2:])
        assert getattr(arguments, "gin", None) in (None, [str(file.relative_to(configuration.GIN_FILES))])
        if getattr(arguments, "out", None) and file in RECIPE_FILES:
            name = file.stem.split("_", 1)[1]
            assert name in arguments.out
    if file in RECIPE_FILES:
        assert [command[1] for command in commands][-4:] == ["compress", "train", "train", "evaluate"]


def test_every_folder_of_gin_files_is_packaged():
    """setup.py installs all folders of gin files, so that `include` also works without a checkout."""
    root = pathlib.Path(__file__).parents[2]
    (folders,) = re.findall(r"^GIN_FOLDERS = (.*)$", (root / "setup.py").read_text(), re.MULTILINE)
    assert sorted(ast.literal_eval(folders)) == sorted(path.name for path in (root / "gin_configs").iterdir())


def test_every_setting_of_a_recipe_is_one_of_a_run():
    """The literal recipes above name existing fields."""
    for train, model in RECIPES.values():
        assert set(train) <= {f.name for f in dataclasses.fields(configuration.TrainConfig)}
        assert set(model) <= {f.name for f in dataclasses.fields(configuration.TransformerConfig)}
