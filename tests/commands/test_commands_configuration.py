"""gin settings: plain strings work, and misspelt names are refused with a suggestion."""

import types

import pytest

from compressed_lm import configuration
from compressed_lm.errors import InputError


def test_scopes_and_plain_strings():
    """Unquoted strings bind, a scope overrides the general setting, and keyword overrides win."""
    configuration.load(
        [],
        ["train.steps=500", "train.optimizer=muon", "m1/train.steps=7", "model.size=nano", "m1/model.d_ff=96"],
        scopes=["m1"],
    )
    assert (configuration.train().steps, configuration.train("m1").steps) == (500, 7)
    assert configuration.train("m1").optimizer == "muon"
    assert (configuration.model(264).d_ff, configuration.model(264, "m1").d_ff) == (256, 96)
    assert configuration.model(264, "m1", size="micro").d_model == 96


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["trian.steps=5"], "Did you mean train"),
        (["train.step=5"], "train has no setting 'step'. Did you mean steps"),
        (["STEPZ=3", "STEPS=3", "train.steps=%STEPS"], "macro STEPZ is set and never used. Did you mean STEPS"),
        (["nonsense"], "where a setting such as train.steps=500 was expected"),
        (["train.steps=0"], "steps=0 was given; expected a whole number from 1 to"),
        (["train.steps=1", "train.optimizer=adam"], "adam"),
    ],
)
def test_mistakes_are_explained(bindings, message):
    """Unknown names, settings and values, and unused macros, are refused in one sentence with a suggestion."""
    with pytest.raises(InputError, match=message):
        configuration.load([], bindings)
        configuration.train()
        from compressed_lm.training.optimizers import optimizer

        optimizer(configuration.train())


@pytest.mark.parametrize(
    "text",
    [
        "import {module}",
        "from {module} import path",
        "from __gin__ import dynamic_registration\nimport {module}",
        "X = 3\ntrain.steps = %X\nimport {module} as m",
        "train.steps = @{module}.run()",
        "X = @{module}.run()\ntrain.steps = %X",
        "X = [1, {{'a': @{module}.run}}]\ntrain.steps = %X",
        "  include '{module}.gin'",
        "include r'{module}.gin'",
    ],
)
def test_a_configuration_runs_no_code(text, tmp_path, monkeypatch):
    """Imports, references to functions and files that gin would open are refused before any code runs.

    This holds for files, included files and settings; the message is one line.
    """
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nrun = path = 1"
    )
    (tmp_path / "hostile.gin").write_text("import hostile")
    (tmp_path / "a.gin").write_text(text.format(module="hostile"))
    (tmp_path / "b.gin").write_text(f"include '{tmp_path}/a.gin'")
    calls = [([str(tmp_path / name)], []) for name in ("a.gin", "b.gin")]
    for files, bindings in [*calls, ([], [f"train.steps=%X\n{text.format(module='hostile')}"])]:
        with pytest.raises(InputError) as raised:
            configuration.load(files, bindings)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_model_mistakes_are_explained():
    """An unknown size or model field is refused with the list of valid ones."""
    with pytest.raises(InputError, match="Did you mean position"):
        configuration.load([], ["model.size=nano", "model.positon=rotary"])
    with pytest.raises(InputError, match="expected one of nano.*Did you mean nano"):
        configuration.load([], ["model.size=nanno"])
    configuration.load([], [])
    with pytest.raises(InputError, match="model.size=nano"):
        configuration.model(264)


def test_every_gin_file_parses():
    """Each file under gin_configs/ loads, and an unknown one is refused with the list."""
    files = sorted(configuration.GIN_FILES.glob("**/*.gin"))
    assert files
    import compressed_lm.pipelines.demo  # noqa: F401  registers the demo's settings

    for file in files:
        configuration.load([str(file)], scopes=["m1", "m2"])
    with pytest.raises(InputError, match="runs/demo.gin"):
        configuration.load(["runs/dmo.gin"])


def test_include_finds_the_files_of_the_package(tmp_path, monkeypatch, caplog):
    """A gin file in any folder may include and override a shipped one; a misspelt name gets a suggestion."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text("include 'recipes/paper.gin'  # theirs\ntrain.steps = 7\n")
    configuration.load(["mine.gin"], ["model.size=25m"])
    assert (configuration.train().steps, configuration.train().batch_size) == (7, 256)
    assert configuration.model(264).dtype == "bfloat16"
    assert not caplog.records  # gin logs an error for each folder in which it does not find a file
    (tmp_path / "mine.gin").write_text("include 'mine.gin'\n")
    with pytest.raises(InputError, match="mine.gin includes itself"):
        configuration.load(["mine.gin"])
    (tmp_path / "mine.gin").write_text("include 'recipes/papr.gin'\n")
    with pytest.raises(InputError, match="no gin file 'recipes/papr.gin'. Did you mean recipes/paper.gin"):
        configuration.load(["mine.gin"])


def test_the_resolved_configuration_loads_again(tmp_path):
    """The text returned by `load` describes the same run without the original files."""
    text = configuration.load(["runs/paper_eiw16_v65536.gin"], ["model.size=113m", "train.warmup_steps=2%"])
    before = configuration.train(), configuration.model(264), configuration.data()
    (tmp_path / "config.gin").write_text(text)
    assert "include" not in configuration.load([str(tmp_path / "config.gin")])
    assert (configuration.train(), configuration.model(264), configuration.data()) == before
    assert before[0].warmup_steps == "2%"


@pytest.mark.parametrize(
    "codec, spec, vocab_size",
    [("bytes", "bytes", 256), ("eiw(v=65536, b=16)", "eiw(b=16,v=65536)", 65536), ("gzip", "gzip(v=256)", 256),
     ("sentencepiece(v=32000)", "sentencepiece(v=32000)", 32000), ("", "", None)],
)  # fmt: skip
def test_data_names_a_codec_before_there_are_tokens(codec, spec, vocab_size):
    """`data.codec` is normalised to a canonical spec and gives the vocabulary size."""
    configuration.load([], [f"data.codec={codec}", "data.bytes_per_token=5.31"])
    data = configuration.data()
    assert (data.codec, data.vocab_size, data.bytes_per_token) == (spec, vocab_size, 5.31)


def test_a_store_of_another_codec_is_refused():
    """A run with `data.codec` refuses tokens of another codec; without it any store is accepted."""
    store = types.SimpleNamespace(codec_spec="gzip(v=256)", path="stores/gzip")
    configuration.load([], ["data.codec=eiw(b=16,v=256)"])
    with pytest.raises(InputError, match=r"codec eiw\(b=16,v=256\) \(data.codec\).*stores/gzip was made with gzip"):
        configuration.data().check(store)
    configuration.load([], ["data.codec=gzip"])
    configuration.data().check(store)
    configuration.load([], [])
    configuration.data().check(store)
    configuration.load([], ["data.codec=eiv(b=16)"])
    with pytest.raises(InputError, match="Did you mean eiw"):
        configuration.data()
    with pytest.raises(InputError, match="data.bytes_per_token=-1 was given; expected a number from 0 on"):
        configuration.load([], ["data.bytes_per_token=-1"])
