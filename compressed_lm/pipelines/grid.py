"""Cells of a sweep: all combinations of codec, size, length, seed and other settings."""

import dataclasses
import hashlib
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

from compressed_lm import codecs
from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, training_flops_per_token
from compressed_lm.pipelines.build_codec import codec_folder
from compressed_lm.training import TrainConfig, durations, run_dir

_COUNT = re.compile(r"[\d.,_]+(e\d+)?\s*[kKMGBT]?")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        label: name of its codec in the sweep.
        choices: its settings, as (name, value).
        name: name of its folder: codec, size, length, seed, and other settings with several values in the grid.
    """

    label: str
    choices: tuple[tuple[str, str], ...]
    name: str


def grid(
    labels: Sequence[str],
    *,
    sizes: Sequence[str] = (),
    tokens: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    settings: Sequence[str] = (),
) -> list[Cell]:
    """Returns all combinations; the codec varies slowest.

    Args:
        labels: names of codecs.
        sizes: model sizes; empty if the configuration sets the size.
        tokens: lengths of the runs, such as "20M" (tokens), or other durations (`training.durations`), such as "300MB"
            of text; its number of tokens depends on the codec. Empty if the configuration sets the steps.
        seeds: random seeds.
        settings: "name=value" or "name=value,value" each.

    Raises:
        InputError: a setting has no value, or something is given twice.
    """
    axes = [[("model.size", size) for size in sizes]] if sizes else []
    axes += [[("train.steps", f"{t} tokens" if _COUNT.fullmatch(t) else t) for t in tokens]] if tokens else []
    axes += [[(name, value) for value in values] for name, values in map(_setting, settings)]
    axes.append([("train.seed", str(seed)) for seed in seeds])
    named = {axis[0][0] for axis in axes if len(axis) > 1} | {"model.size", "train.steps", "train.seed"}
    cells = [
        Cell(label, choices, "-".join([label, *(_shown(*choice) for choice in choices if choice[0] in named)]))
        for label in labels
        for choices in itertools.product(*axes)
    ]
    names = [cell.name for cell in cells]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The grid holds {repeated[0]} more than once. Give each size, length, seed and value once.")
    return cells


def _shown(name: str, value: str) -> str:
    """Returns a setting as part of a cell name: 25m, 20M (tokens), s0, learning_rate=1e-3."""
    known = {"model.size": "", "train.steps": "", "train.seed": "s"}
    prefix = known.get(name, f"{name.replace('/', '.').removeprefix('train.').removeprefix('model.')}=")
    return prefix + re.sub(r"[^\w.+-]+", "", value.removesuffix(" tokens"))


def _setting(text: str) -> tuple[str, list[str]]:
    """Returns name and values of "name=value,value"; commas inside brackets or quotes belong to a value."""
    name, _, rest = text.partition("=")
    values, depth, quote = [""], 0, ""
    for character in rest:
        if character == "," and not depth and not quote:
            values.append("")
            continue
        values[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
    if not all(value.strip() for value in values):
        raise InputError(
            f"{text!r} was given. Expected a setting such as train.learning_rate=1e-3 or, for a grid, "
            "train.learning_rate=1e-3,3e-3."
        )
    return name.strip(), [value.strip() for value in values]


def is_spec(source: str) -> bool:
    """Returns whether a codec source is a spec to build, not a directory, file or name of a codec in the package."""
    is_path = "/" in source or source in codecs.shipped() or pathlib.Path(source).exists()
    return source.split("(")[0].strip() in codecs.FAMILIES or not is_path


def labelled(sources: Sequence[str]) -> dict[str, str]:
    """Returns label -> codec; the label is a spec without brackets, or the name of a directory or file.

    Raises:
        InputError: two codecs have the same label.
    """
    found: dict[str, str] = {}
    for source in sources:
        path = pathlib.Path(source).name.removesuffix(".clmd")
        label = codec_folder(source) if is_spec(source) else path
        if label in found:
            raise InputError(
                f"The codecs {found[label]} and {source} were given, and both would be called {label}. Give each codec "
                "once, and rename directories of the same name."
            )
        found[label] = source
    return found


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cell with its configuration.

    Attributes:
        cell: the cell.
        text: complete configuration as gin text.
        train, model: configuration of the run; durations are whole steps if the token stores exist.
        codec: its codec; None until the token stores exist.
        stores: split -> token store; empty until they exist.
    """

    cell: Cell
    text: str
    train: TrainConfig
    model: TransformerConfig
    codec: Codec | None = None
    stores: Mapping[str, TokenStore] = dataclasses.field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of training."""
        return int(self.train.steps) * self.train.batch_size * self.train.seq_len

    @property
    def flops(self) -> float:
        """FLOPs of training."""
        return self.tokens * training_flops_per_token(self.model, seq_len=self.train.seq_len)

    @property
    def epochs(self) -> float:
        """Number of passes over the text."""
        return self.tokens / durations.rates(self.stores["train"])["tokens_per_epoch"]

    @property
    def record(self) -> dict:
        """Description of the run in its folder."""
        return run_dir.describe(self.train, self.model, self.stores["train"])

    @property
    def identity(self) -> str:
        """Hex digest of everything that determines the row of the run table."""
        parts = run_dir.config_hash(self.record), self.stores["validation"].fingerprint
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
