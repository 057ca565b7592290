"""Settings are checked against the fields of their dataclasses, from all sources."""

import dataclasses
import math
import types

import numpy as np
import pytest

from compressed_lm import configuration, settings
from compressed_lm.cramming import CramConfig
from compressed_lm.cramming.study import Study
from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, count_params
from compressed_lm.pipelines import demo
from compressed_lm.post_training.shrink import Shrink
from compressed_lm.settings import setting
from compressed_lm.specs import did_you_mean
from compressed_lm.training import TrainConfig

CONFIGS = {
    TrainConfig: dict(steps=1),
    TransformerConfig: dict(vocab_size=264),
    configuration.Data: {},
    demo.DemoConfig: {},
    CramConfig: {},
    Study: dict(lengths=(8,)),
    Shrink: dict(keep=0.5),
}
WRONG = {
    int: ["abc", "5", 4.5, math.nan, math.inf, -(10**30), 10**30, True, None, [1], object()],
    float: ["fast", "1e-3", math.nan, math.inf, -math.inf, 10**400, True, None, (1.0,)],
    bool: ["maybe", 2, 1.0, None, "", "tru"],
    str: [5, 1.5, True, None, b"text", ("a",)],
}
"""Values that no setting of a type accepts."""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_of_every_config_refuses_wrong_values(config):
    """Each field of each config dataclass refuses wrong types, ranges and choices by name, from every caller."""
    for field in dataclasses.fields(config):
        kinds = field.type.__args__ if isinstance(field.type, types.UnionType) else (field.type,)
        limits = field.metadata.get("limits", settings.Limits())
        if dataclasses.is_dataclass(field.type):
            continue
        if kinds[0] in WRONG:
            wrong = [v for v in WRONG[kinds[0]] if not any(isinstance(v, kind) for kind in kinds[1:])]
            wrong += ["no such duration", "-5 steps", "1e400 tokens", "2 weeks"] if limits.parse else []
        else:  # a tuple
            wrong = ["bytes", 5, (object(),), None]
        wrong += [low - 1 for low in [limits.low] if low is not None] + [limits.above] * (limits.above is not None)
        wrong += ["no_such_choice"] * bool(limits.choices)
        for value in wrong:
            with pytest.raises(InputError, match=rf"{field.name}=.* was given; expected "):
                config(**(CONFIGS[config] | {field.name: value}))


def test_booleans_are_words_in_any_case():
    """false, no, off and 0 are False from bindings, files and calls: 132,544 parameters instead of 165,312."""
    sizes = {}
    for word in ("false", "no", "off", "0", "False", "OFF", "true", "yes", "on", "1", "True"):
        configuration.load([], ["model.size=nano", f"model.gated_mlp={word}"])
        sizes[word] = count_params(configuration.model(264)).total
        assert TransformerConfig(vocab_size=264, qk_norm=word).qk_norm is (word.lower() in ("true", "yes", "on", "1"))
    assert {word for word, n in sizes.items() if n == 132_544} == {"false", "no", "off", "0", "False", "OFF"}
    assert set(sizes.values()) == {132_544, 165_312}


def test_values_get_their_declared_type():
    """Whole numbers may be written as 1e3, numbers may be NumPy scalars, and lists become tuples."""
    config = TrainConfig(steps=1e3, batch_size=np.int64(8), learning_rate=np.float32(0.5), seed=np.int32(3))
    found = config.steps, config.batch_size, config.learning_rate, config.seed
    assert found == (1000, 8, 0.5, 3) and [type(v) for v in found] == [int, int, float, int]
    assert demo.DemoConfig(codecs=["bytes"]).codecs == ("bytes",)


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["train.learning_rate=fast"], "train.learning_rate='fast' was given; expected a number from 0 on"),
        (["train.learning_rate=nan"], "train.learning_rate='nan' was given; expected a number"),
        (["train.batch_size=4.5"], "train.batch_size=4.5 was given; expected a whole number from 1 to 2,147,483,647"),
        (["train.seed=abc"], "train.seed='abc' was given; expected a whole number from 0"),
        (["train.keep=two"], "train.keep='two' was given; expected a whole number"),
        ([f"train.steps={10**30}"], "train.steps=1000000.* was given; expected a whole number"),
        (["train.steps=9" + "9" * 5000], "was given; expected a whole number"),
        (["model.n_layers=1000000000"], "model.n_layers=1000000000 was given; expected .* to 10,000"),
        (["train.optimizer=adam"], "'adam' was given; expected one of adamw, adafactor, muon. Did you mean adamw"),
        (["model.gated_mlp=maybe"], "model.gated_mlp='maybe' was given; expected true or false"),
        (["train.keep=two", "train.keep=2"], "train.keep='two' was given"),
        (["ml/train.steps=7"], "nothing reads the scope 'ml': the scopes here are m1, m2. Did you mean m1"),
        (["m1/m2/train.steps=7"], "nothing reads the scope 'm1/m2'"),
        (["m1/train.steps=x"], "m1/train.steps='x' was given"),
        (["train.steps=%undefined"], "there is no macro undefined"),
        (["STEPS=3", "train.steps=%STEPZ"], "there is no macro STEPZ. Did you mean STEPS"),
        (["A=%B", "B=%A", "train.steps=%A"], "refers to itself"),
        (["A=x", "train.steps=%A"], "train.steps='x' was given"),
        (["train.steps=@train"], "is a reference; expected a value"),
        (["train.optimizer=@model()"], "is a reference; expected a value"),
        (["model.vocab_size=9"], "model has no setting 'vocab_size'"),
        (["macro.value=3"], "macro"),
        (["singleton.constructor=3"], "There is no 'singleton'"),
        (["train.steps"], "where a setting such as train.steps=500 was expected"),
        (["train..steps=5"], "cannot be used"),
        (["é.steps=5"], "expected|cannot be used|no 'é'"),
    ],
)
def test_wrong_bindings_are_explained(bindings, message):
    """Types, ranges, choices, scopes and macros of bindings are checked at loading, before any work."""
    with pytest.raises(InputError, match=message) as caught:
        configuration.load([], bindings, scopes=["m1", "m2"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"train.steps = 'abc", "cannot be used"),
        (b"train.steps = (1,", "cannot be used"),
        (b"'''", "cannot be used"),
        (b"model.gated_mlp = false", "Quote strings"),
        (b"train.steps = {1: 2, [3]: 4}", "cannot be used"),
        (b"train.steps = 5; train.seed = 3", "cannot be used"),
        (b"train.steps = \x00", "cannot be used"),
        (b"train:\n\tsteps = 5\n  seed = 4", "cannot be used"),
        (b"train.steps = 1e999", "train.steps=inf was given"),
        (b"train.optimizer = 'ad\xe9'", "is not UTF-8 text: its byte 21 is 0xe9"),
        (b"\xff\xfet\x00", "is not UTF-8 text"),
        (b"\tinclude 'nowhere.gin'", "`include` in line 1 is not written as expected"),
        (b"include 'a.gin'", "a.gin includes itself"),
        (b"import no_such_module", "runs no code"),
        (b"m1/train.steps = 5", "write train, without a scope"),
    ],
)
def test_wrong_gin_files_are_explained(content, message, tmp_path, monkeypatch):
    """An unreadable gin file is reported in one paragraph, whatever is wrong with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gin").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        configuration.load(["a.gin"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbftrain.steps = 5", b"\ttrain.steps = 5\r\n", b"train.steps = 6\ntrain.steps = 5"]
)
def test_marks_tabs_and_repeats_in_gin_files_are_read(content, tmp_path):
    """A byte-order mark, tabs, Windows line ends and repeated settings (the last one counts) are accepted."""
    (tmp_path / "a.gin").write_bytes(content)
    configuration.load([str(tmp_path / "a.gin")])
    assert configuration.train().steps == 5


def test_a_folder_or_device_is_no_gin_file(tmp_path):
    """A gin path that exists but is not a file gets another message than a missing one."""
    for path in (str(tmp_path), "/dev/null"):
        with pytest.raises(InputError, match="is a folder or a device"):
            configuration.load([path])


@pytest.mark.parametrize(
    "given, known, meant",
    [("stepz", "steps", True), ("trian", "train", True), ("cos", "cosine", True), ("int4", "int", True),
     ("3M", "3m", True), ("gpt2", "gpt_neox", False), ("mamba", "llama", False), ("gemma", "llama", False),
     ("mxfp8", "mxfp4", False),
     ("30m", "3m", False), ("zstd", "gzip", False), ("lamb", "adamw", False)],
)  # fmt: skip
def test_only_slips_of_the_keyboard_are_suggested(given, known, meant):
    """Only names that differ by one or two typing errors are suggested."""
    assert bool(did_you_mean(given, [known])) is meant


def test_limits_say_what_they_allow():
    """Messages distinguish inclusive and exclusive limits, and NaN is in no range."""
    phrases = {
        "a whole number from 1 to 2,147,483,647": (int, dict(low=1)),
        "a number above 0, at most 1": (float, dict(above=0, high=1)),
        "a number from 0 on, below 1": (float, dict(low=0, below=1)),
        "a number above 1": (float, dict(above=1)),
        "one of a, b": (str, dict(choices=("a", "b"))),
    }
    for phrase, (kind, limits) in phrases.items():
        assert settings.Limits(**limits).describe(kind) == phrase
    assert not settings.Limits(low=0).allow(math.nan, float) and not settings.Limits(low=0, below=1).allow(1.0, float)

    @dataclasses.dataclass(frozen=True)
    class Config:
        share: float = setting(0.5, above=0, high=1)
        __post_init__ = settings.check

    assert Config(1).share == 1
    with pytest.raises(InputError, match="share=0 was given; expected a number above 0, at most 1"):
        Config(0)
