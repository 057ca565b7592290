"""Options that several verbs have."""

from collections.abc import Sequence

CORPUS_HELP = (
    "source of documents: installed_docs (documentation of the installed packages), json:PATH (C4-style JSON "
    "lines) and text:PATH (a file a document), PATH being a file or a glob, plain or compressed by gzip, bzip2 or xz, "
    "store:DIR (a token store of raw bytes), tfds:c4/en:3.1.0, seqio:TASK, mix:8*SPEC,SPEC (several, with weights)"
)


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
    parser.add_argument("--steps", type=int, help="updates (same as --set train.steps=...)")
    parser.add_argument("--seed", type=int, help="seed (same as --set train.seed=...)")
    devices(parser)


def devices(parser, default: int | None = None):
    parser.add_argument(
        "--devices",
        type=int,
        default=default,
        help="virtual devices to split a CPU into; accelerators are found by themselves"
        + (f" (default {default})" if default else ""),
    )
