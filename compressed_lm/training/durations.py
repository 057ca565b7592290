"""How long something lasts, in whatever unit suits: steps, a share of the run, tokens, bytes of text, epochs.

500, "500 steps"        updates
"10%"                   of the steps of the run
"20M tokens"            tokens of training
"1.5GB", "300M bytes"   raw text, in the bytes that a token stands for
"2 epochs"              passes over the token store

Prefixes are decimal: k, M, G (or B before a word) and T.
"""

import dataclasses
import math
import re
from fractions import Fraction

from compressed_lm.errors import InputError
from compressed_lm.settings import shown

FIELDS = ("steps", "warmup_steps", "log_every", "checkpoint_every", "keep_every", "eval_every")
"""The settings of a run that are durations; `steps` is the one that percentages refer to."""

UNITS = "steps, % (of the steps), tokens, bytes (kB, MB, GB, TB) or epochs"
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_DURATION = re.compile(
    r"(?P<number>\d[\d_,]{0,39}(?:\.\d{1,39})?(?:e\+?\d{1,2})?)\s*"
    r"(?:(?P<percent>%)|(?P<prefix>[kKMGBT]?)\s*(?P<unit>steps?|tokens?|bytes?|epochs?)|(?P<scale>[kKMGT])B|)"
)


def to_steps(
    duration: int | float | str,
    *,
    field: str,
    tokens_per_step: int,
    total_steps: int | None = None,
    bytes_per_token: float | None = None,
    tokens_per_epoch: int | None = None,
) -> int:
    """Returns a duration in whole steps: rounded up, at least 1, but 0 stays 0.

    Args:
        duration: see the module's docstring; a number counts steps.
        field: the setting it was given for, for messages.
        tokens_per_step: tokens in a batch, B L.
        total_steps: steps of the run, for percentages; None for the setting `steps` itself.
        bytes_per_token: bytes of text that a token of the training data stands for, if known.
        tokens_per_epoch: tokens of the training data, end-of-document included, if known.

    Raises:
        InputError: it is no duration, or its unit needs something that is not known.
    """
    number, unit = _parse(duration, field)
    match unit:
        case "step":
            steps = number
        case "%":
            if total_steps is None:
                raise InputError(
                    f"{field}={duration!r} was given; percentages are shares of {field} itself, so expected another "
                    f"unit here: {UNITS.replace('% (of the steps), ', '')}."
                )
            steps = number * total_steps / 100
        case "token":
            steps = number / tokens_per_step
        case "byte":
            if not bytes_per_token:
                raise InputError(
                    f"{field}={duration!r} was given, and how many bytes a token stands for is not known here. Give "
                    "a token store, which says so, or data.bytes_per_token, or a duration in steps or tokens."
                )
            steps = number / Fraction(bytes_per_token) / tokens_per_step
        case "epoch":
            if not tokens_per_epoch:
                raise InputError(
                    f"{field}={duration!r} was given, and how many tokens an epoch has is not known here. Give a token "
                    "store, which says so, or a duration in steps or tokens."
                )
            steps = number * tokens_per_epoch / tokens_per_step
    return math.ceil(steps)


def check(duration: str, field: str) -> None:
    """Raises InputError unless text names a duration."""
    _parse(duration, field)


def resolve(config, *, bytes_per_token: float | None = None, tokens_per_epoch: int | None = None):
    """Returns a `TrainConfig` whose durations (`FIELDS`) are whole steps. See `to_steps` for arguments and errors."""
    known = dict(
        tokens_per_step=config.batch_size * config.seq_len,
        bytes_per_token=bytes_per_token,
        tokens_per_epoch=tokens_per_epoch,
    )
    total = to_steps(config.steps, field="steps", **known)
    names = {field.name for field in dataclasses.fields(config)}
    steps = {
        name: to_steps(getattr(config, name), field=name, total_steps=total, **known)
        for name in FIELDS
        if name in names and name != "steps"
    }
    return dataclasses.replace(config, steps=total, **steps)


def rates(store) -> dict[str, float]:
    """Returns what a token store knows of its tokens: `bytes_per_token` and `tokens_per_epoch`, arguments of
    `to_steps`. Both count the end-of-document tokens, since the model is trained on them too."""
    tokens = store.n_tokens + store.n_documents
    return {"bytes_per_token": store.n_bytes / max(tokens, 1), "tokens_per_epoch": tokens}


def _parse(duration, field: str) -> tuple[Fraction, str]:
    """Returns (number, one of step, %, token, byte, epoch)."""
    if isinstance(duration, str):
        found = _DURATION.fullmatch(duration.strip())
        if found:
            number = Fraction(re.sub("[_,]", "", found["number"]))
            unit = found["percent"] or ("byte" if found["scale"] else (found["unit"] or "step").removesuffix("s"))
            return number * _PREFIXES[found["prefix"] or found["scale"] or ""], unit
    elif not isinstance(duration, bool) and isinstance(duration, int | float):
        if duration >= 0 and duration == int(duration):
            return Fraction(int(duration)), "step"
    raise InputError(
        f"{field}={shown(duration)} was given; expected a whole number of steps, or a number with a unit such as "
        f"'20M tokens'. Units: {UNITS}."
    )
