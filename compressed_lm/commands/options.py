"""Options that several verbs have, and the types of options."""

import argparse
import dataclasses
from collections.abc import Sequence

from compressed_lm import settings

MAX_DEVICES = 4096  # that a CPU is split into; each has threads of its own

CORPUS_HELP = (
    "source of documents: installed_docs (documentation of the installed packages), json:PATH (C4-style JSON "
    "lines) and text:PATH (a file a document), PATH being a file or a glob, plain or compressed by gzip, bzip2 or xz, "
    "store:DIR (a token store of raw bytes), tfds:c4/en:3.1.0, seqio:TASK, mix:8*SPEC,SPEC (several, with weights)"
)


@dataclasses.dataclass(frozen=True)
class Number:
    """Type of an option: a number within limits."""

    kind: type
    limits: settings.Limits

    def __call__(self, text: str) -> int | float:
        try:
            return settings.number(text, self.kind, self.limits)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def whole(low: int = 0, high: int = settings.LARGEST) -> Number:
    """Returns the type of an option that is a whole number."""
    return Number(int, settings.Limits(low=low, high=high))


def real(**limits: float) -> Number:
    """Returns the type of an option that is a number; `limits` as of `settings.Limits`."""
    return Number(float, settings.Limits(**limits))


def count_of_bytes() -> Number:
    """Returns the type of an option that is a positive number of bytes."""
    return whole(1, settings.LARGEST_BYTES)


def mesh(text: str) -> tuple[int, ...]:
    """Type of an option: the sizes of the three axes of a mesh."""
    sizes = _whole_numbers(text)
    if sizes is None or len(sizes) != 3 or not all(1 <= size <= settings.LARGEST for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{settings.shown(text)} was given; expected three whole numbers from 1 on for data,fsdp,tensor, such as "
            "4,2,1"
        )
    return sizes


def first_and_last(text: str) -> tuple[int, ...]:
    """Type of an option: the first and the last of some steps."""
    steps = _whole_numbers(text)
    if steps is None or len(steps) != 2 or not 0 <= steps[0] <= steps[1] <= settings.LARGEST:
        raise argparse.ArgumentTypeError(
            f"{settings.shown(text)} was given; expected the first and the last step, such as 100,110"
        )
    return steps


def _whole_numbers(text):
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return None


def corpus(parser, *, default: str | None = "installed_docs"):
    parser.add_argument("--corpus", default=default, help=CORPUS_HELP + " (default: installed_docs)")
    parser.add_argument(
        "--validation", help="source of the validation documents, where the corpus has no validation split of its own"
    )


def gin(parser, *, default: Sequence[str] = ()):
    parser.add_argument(
        "--gin", action="append", help=f"gin file, may be given again{f' (default {default[0]})' if default else ''}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting over the gin files, such as train.steps=500; may be given again",
    )
    parser.set_defaults(gin_default=default)


def training(parser, *, size: bool = True):
    gin(parser)
    if size:
        sizes = "nano, micro, mini, 3m, 25m, 113m, 403m, 2b"
        parser.add_argument("--size", help=f"named model size: {sizes} (same as --set model.size=...)")
    parser.add_argument("--steps", type=whole(1), help="updates (same as --set train.steps=...)")
    parser.add_argument("--seed", type=whole(), help="seed (same as --set train.seed=...)")
    devices(parser)


def devices(parser, default: int | None = None):
    parser.add_argument(
        "--devices",
        type=whole(1, MAX_DEVICES),
        default=default,
        help="virtual devices to split a CPU into; accelerators are found by themselves"
        + (f" (default {default})" if default else ""),
    )
