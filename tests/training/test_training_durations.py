"""Durations in any unit become the same whole number of steps everywhere."""

import dataclasses

import pytest

from compressed_lm.errors import InputError
from compressed_lm.training.durations import FIELDS, rates, resolve, to_steps

# 4 rows of 50 tokens a step; 2,000 tokens of 2.5 bytes an epoch.
KNOWN = dict(field="eval_every", tokens_per_step=200, total_steps=1000, bytes_per_token=2.5, tokens_per_epoch=2000)


@dataclasses.dataclass(frozen=True)
class Config:
    """The part of a TrainConfig that durations touch."""

    steps: int | str
    batch_size: int = 4
    seq_len: int = 50
    warmup_steps: int | str = 0
    log_every: int | str = 1
    eval_every: int | str = 0


@pytest.mark.parametrize(
    ("duration", "steps"),
    [(0, 0), (7, 7), (2e5, 200_000), ("500", 500), ("500 steps", 500), ("1 step", 1), ("10k steps", 10_000),
     ("200,000 steps", 200_000), ("1e3 steps", 1000), ("10%", 100), ("0.1 %", 1), ("33.33%", 334), ("0%", 0),
     ("20M tokens", 100_000), ("20Mtokens", 100_000), ("26B tokens", 130_000_000), ("201 tokens", 2), ("1 token", 1),
     ("1.5GB", 3_000_000), ("300 MB", 600_000), ("69.5G bytes", 139_000_000), ("501 bytes", 2), ("0.5kB", 1),
     ("1 epoch", 10), ("2 epochs", 20), ("0.25 epochs", 3), (" 3 epochs ", 30)],
)  # fmt: skip
def test_every_unit_in_steps(duration, steps):
    """Steps, shares of the run, tokens, bytes and epochs, with prefixes; rounded up, and 0 stays 0."""
    assert to_steps(duration, **KNOWN) == steps


def test_rounding_up_is_exact():
    """No floating-point error adds or drops a step: 7% of 100 is 7 (in floats it is 7.000000000000001)."""
    assert 0.07 * 100 > 7
    assert to_steps("7%", **KNOWN | {"total_steps": 100}) == 7
    assert to_steps("26,214,400,000 tokens", field="steps", tokens_per_step=131_072) == 200_000


@pytest.mark.parametrize(
    "duration", ["20 parsecs", "20B", "20M", "1.5GiB", "-5%", "ten steps", "", -1, 2.5, None, True, "5 m tokens"]
)
def test_what_is_no_duration_is_refused_with_the_units(duration):
    """An unknown or missing unit, and one that could mean two things (20B), is an error that lists the units."""
    if duration == "20":
        assert to_steps(duration, **KNOWN) == 20
        return
    with pytest.raises(
        InputError, match=r"eval_every=.* was given; expected .* Units: steps, %.*tokens, bytes.*epochs"
    ):
        to_steps(duration, **KNOWN)


def test_a_unit_that_needs_more_says_what():
    """A share of the steps themselves, bytes without bytes per token, and epochs without a store are explained."""
    with pytest.raises(InputError, match="steps='10%' was given, but percentages refer to steps itself"):
        to_steps("10%", field="steps", tokens_per_step=200)
    with pytest.raises(InputError, match="log_every='1GB' was given.*Give a token store.*data.bytes_per_token"):
        to_steps("1GB", field="log_every", tokens_per_step=200, total_steps=10)
    with pytest.raises(InputError, match="steps='2 epochs' was given.*Give a token store"):
        to_steps("2 epochs", field="steps", tokens_per_step=200)


def test_resolve_replaces_every_duration():
    """`steps` comes first, the others may be shares of it; everything else stays, and whole steps stay as they are."""
    config = Config(steps="2 epochs", warmup_steps="10%", log_every="1000 bytes", eval_every="800 tokens")
    resolved = resolve(config, bytes_per_token=2.5, tokens_per_epoch=2000)
    assert resolved == Config(steps=20, warmup_steps=2, log_every=2, eval_every=4)
    assert resolve(resolved) == resolved
    with pytest.raises(InputError, match="steps='50%'"):
        resolve(Config(steps="50%"))


def test_every_field_of_a_training_run_is_covered():
    """A TrainConfig with durations in all its fields resolves to whole steps."""
    from compressed_lm.training import TrainConfig

    names = {field.name for field in dataclasses.fields(TrainConfig)} & set(FIELDS)
    assert {"steps", "warmup_steps", "log_every", "checkpoint_every", "eval_every"} <= names
    assert resolve(TrainConfig(steps=300)) == TrainConfig(steps=300)


def test_rates_count_the_ends_of_documents(store):
    """Bytes per token and tokens per epoch count the end-of-document tokens.

    For the codec bytes, there is one token per document more than bytes of text.
    """
    known = rates(store)
    assert known["tokens_per_epoch"] == store.n_bytes + store.n_documents
    assert known["bytes_per_token"] == store.n_bytes / (store.n_bytes + store.n_documents) < 1
    config = resolve(Config(steps=f"{store.n_bytes} bytes", batch_size=1, seq_len=1), **known)
    assert config.steps in (known["tokens_per_epoch"], known["tokens_per_epoch"] + 1)
