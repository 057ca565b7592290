"""Durations in steps, percent of the run, tokens, bytes of text or epochs.

500, "500 steps"        updates
"10%"                   of the steps of the run
"20M tokens"            tokens of training
"1.5GB", "300M bytes"   raw text, converted by the bytes per token
"2 epochs"              passes over the token store

Prefixes are decimal: k, M, G (or B before a word) and T.
"""

import dataclasses
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict, TypeVar

from compressed_lm.errors import InputError
from compressed_lm.settings import shown

if TYPE_CHECKING:
    from compressed_lm.training.data import TrainingStore

FIELDS = ("steps", "warmup_steps", "log_every", "checkpoint_every", "keep_every", "eval_every")
"""The settings of a run that are durations; percentages refer to `steps`."""

UNITS = "steps, % (of the steps), tokens, bytes (kB, MB, GB, TB) or epochs"
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_DURATION = re.compile(
    r"(?P<number>\d[\d_,]{0,39}(?:\.\d{1,39})?(?:e\+?\d{1,2})?)\s*"
    r"(?:(?P<percent>%)|(?P<prefix>[kKMGBT]?)\s*(?P<unit>steps?|tokens?|bytes?|epochs?)|(?P<scale>[kKMGT])B|)"
)


class _Durations(Protocol):
    """The fields of a `TrainConfig` that `resolve` reads."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def batch_size(self) -> int:
        """Rows in a batch."""

    @property
    def seq_len(self) -> int:
        """Tokens in a row."""


Config = TypeVar("Config", bound=_Durations)


def to_steps(
    duration: int | float | str,
    *,
    field: str,
    tokens_per_step: int,
    total_steps: int | None = None,
    bytes_per_token: float | None = None,
    tokens_per_epoch: int | None = None,
) -> int:
    """Returns a duration in whole steps, rounded up.

    Args:
        duration: see the module's docstring; a number counts steps.
        field: name of the setting, for messages.
        tokens_per_step: tokens in a batch, B L.
        total_steps: steps of the run, for percentages; None for the setting `steps` itself.
        bytes_per_token: mean bytes of text in a token of the training data, if known.
        tokens_per_epoch: tokens of the training data, end-of-document included, if known.

    Raises:
        InputError: it is not a duration, or its unit needs a number that is not known.
    """
    number, unit = _parse(duration, field)
    match unit:
        case "step":
            steps = number
        case "%":
            if total_steps is None:
                raise InputError(
                    f"{field}={duration!r} was given, but percentages refer to {field} itself; expected another "
                    f"unit: {UNITS.replace('% (of the steps), ', '')}."
                )
            steps = number * total_steps / 100
        case "token":
            steps = number / tokens_per_step
        case "byte":
            if not bytes_per_token:
                raise InputError(
                    f"{field}={duration!r} was given, but the bytes per token are not known. Give a token store, "
                    "data.bytes_per_token, or a duration in steps or tokens."
                )
            steps = number / Fraction(bytes_per_token) / tokens_per_step
        case "epoch":
            if not tokens_per_epoch:
                raise InputError(
                    f"{field}={duration!r} was given, but the tokens per epoch are not known. Give a token store, or "
                    "a duration in steps or tokens."
                )
            steps = number * tokens_per_epoch / tokens_per_step
    return math.ceil(steps)


def check(duration: str, field: str) -> None:
    """Raises InputError unless the text is a duration."""
    _parse(duration, field)


def resolve(config: Config, *, bytes_per_token: float | None = None, tokens_per_epoch: int | None = None) -> Config:
    """Returns a `TrainConfig` whose durations (`FIELDS`) are whole steps. See `to_steps` for arguments and errors."""

    def steps(name: str, total: int | None = None) -> int:
        return to_steps(
            getattr(config, name),
            field=name,
            tokens_per_step=config.batch_size * config.seq_len,
            total_steps=total,
            bytes_per_token=bytes_per_token,
            tokens_per_epoch=tokens_per_epoch,
        )

    total = steps("steps")
    names = {field.name for field in dataclasses.fields(config)}
    others = {name: steps(name, total) for name in FIELDS if name in names and name != "steps"}
    return dataclasses.replace(config, steps=total, **others)


def whole(duration: int | str) -> int:
    """Returns a duration of a resolved config, which is a number of steps.

    Raises:
        InputError: it is still text.
    """
    if isinstance(duration, str):
        raise InputError(f"The duration {duration!r} was given; expected steps. Call `durations.resolve` first.")
    return duration


class Rates(TypedDict):
    """Sizes of the tokens of a store, as arguments of `to_steps`."""

    bytes_per_token: float
    tokens_per_epoch: int


def rates(store: "TrainingStore") -> Rates:
    """Returns the mean bytes per token and the tokens per epoch of a token store.

    Both count the end-of-document tokens, since the model is trained on them too.
    """
    tokens = store.n_tokens + store.n_documents
    return {"bytes_per_token": store.n_bytes / max(tokens, 1), "tokens_per_epoch": tokens}


def _parse(duration: int | float | str, field: str) -> tuple[Fraction, str]:
    """Returns (number, unit); the unit is one of step, %, token, byte, epoch."""
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
