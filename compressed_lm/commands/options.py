"""Options shared by several commands, and types of options."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from compressed_lm import settings
from compressed_lm.commands import paths
from compressed_lm.commands.command import Parser

MAX_DEVICES = 4096  # virtual devices of a CPU; each starts threads
MESH_HELP = "sizes of the mesh axes data,fsdp,tensor, such as 4,2,1 (default: all devices on data)"


@dataclasses.dataclass(frozen=True)
class Number:
    """Option type: a number within limits."""

    kind: type
    limits: settings.Limits

    def __call__(self, text: str) -> int | float:
        try:
            return settings.number(text, self.kind, self.limits)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def whole(low: int = 0, high: int = settings.LARGEST) -> Number:
    """Returns the option type for whole numbers."""
    return Number(int, settings.Limits(low=low, high=high))


def real(**limits: Any) -> Number:
    """Returns the option type for real numbers; `limits` are those of `settings.Limits`."""
    return Number(float, settings.Limits(**limits))


def count_of_bytes() -> Number:
    """Returns the option type for a positive number of bytes."""
    return whole(1, settings.LARGEST_BYTES)


def mesh_shape(text: str) -> tuple[int, ...]:
    """Returns the sizes of the three mesh axes."""
    sizes = _whole_numbers(text)
    if sizes is None or len(sizes) != 3 or not all(1 <= size <= settings.LARGEST for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{settings.shown(text)} was given; expected three whole numbers of at least 1 for data,fsdp,tensor, such "
            "as 4,2,1"
        )
    return sizes


def first_and_last(text: str) -> tuple[int, ...]:
    """Returns the first and the last step."""
    steps = _whole_numbers(text)
    if steps is None or len(steps) != 2 or not 0 <= steps[0] <= steps[1] <= settings.LARGEST:
        raise argparse.ArgumentTypeError(
            f"{settings.shown(text)} was given; expected the first and the last step, such as 100,110"
        )
    return steps


def _whole_numbers(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return None


def add_corpus(parser: Parser, *, default: str | None = "installed_docs", used: str = "") -> None:
    """Adds --corpus and --validation."""
    from compressed_lm.data.sources import SOURCES

    forms = ", ".join(f"{source.form} ({source.summary})" for source in SOURCES.values())
    parser.add_path(
        "--corpus",
        kind=paths.CORPUS,
        default=default,
        help=used
        or f"source of documents (default installed_docs): {forms}. A PATH is a file or a glob, local, gs:// or s3://; "
        "gzip, bzip2, xz and Zstandard are decompressed; - is JSON lines from the standard input. "
        "json(field=NAME):PATH names the field with the text, json(template='{title} {text}',id=url):PATH joins fields "
        "and keeps an id; parquet and hf have the same options",
    )
    parser.add_path(
        "--validation",
        kind=paths.CORPUS,
        help="source of the validation documents, if the corpus has no validation split",
    )


def add_codec(parser: Parser, *, required: bool = True, help: str = "") -> None:
    """Adds --codec, the codec to load."""
    from compressed_lm import codecs

    shipped = ", ".join(["bytes", *codecs.shipped()])
    parser.add_path(
        "--codec",
        kind=paths.READ,
        required=required,
        help=help or f"codec directory, dictionary file, or name of a shipped codec ({shipped})",
    )


def add_gin(parser: Parser, *, default: Sequence[str] = ()) -> None:
    """Adds --gin and --set."""
    parser.add_path(
        "--gin",
        kind=paths.READ,
        action="append",
        help=f"gin file (repeatable){f' (default {default[0]})' if default else ''}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting that overrides the gin files, such as train.steps=500 (repeatable)",
    )
    parser.set_defaults(gin_default=default)


def add_training(parser: Parser, *, size: bool = True) -> None:
    """Adds the options of a training run: --gin, --set, --size, --steps, --seed, --devices."""
    add_gin(parser)
    if size:
        from compressed_lm.models.sizes import SIZES

        parser.add_argument("--size", help=f"model size: {', '.join(SIZES)} (same as --set model.size=...)")
    parser.add_argument("--steps", type=whole(1), help="updates (same as --set train.steps=...)")
    parser.add_argument("--seed", type=whole(), help="seed (same as --set train.seed=...)")
    add_devices(parser)


def add_mesh(parser: Parser) -> None:
    """Adds --mesh."""
    parser.add_argument("--mesh", type=mesh_shape, help=MESH_HELP)


def add_validation_store(parser: Parser) -> None:
    """Adds --validation_store."""
    parser.add_path(
        "--validation_store", kind=paths.READ, help="token store of validation documents, for a learning curve"
    )


def add_devices(parser: Parser, default: int | None = None) -> None:
    """Adds --devices."""
    parser.add_argument(
        "--devices",
        type=whole(1, MAX_DEVICES),
        default=default,
        help="number of virtual CPU devices; accelerators are found automatically"
        + (f" (default {default})" if default else ""),
    )
