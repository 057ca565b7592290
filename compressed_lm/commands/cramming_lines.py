"""The command lines of the verbs that cram texts into input vectors."""

from collections.abc import Callable

from compressed_lm.commands import cramming, options


def add(verb: Callable) -> None:
    """Adds the verbs; `verb` makes the parser of one from its name, function, summary and example."""
    cram = verb(
        "cram",
        cramming.cram,
        "a text as K input vectors, out of which a frozen model writes it again",
        "compressed-lm cram note.txt --model runs/eiw --k 1 --out note.clt",
    )
    cram.add_argument("text", help="file of the text, or - for the standard input")
    _model(cram)
    cram.add_argument("--k", type=options.whole(1), default=1, help="vectors of the text (default %(default)s)")
    cram.add_argument("--out", required=True, help="file to write; only a text that comes back exactly is written")
    _optimization(cram)
    cram.add_argument("--margin", type=options.real(low=0), default=0.1, help=MARGIN_HELP)
    cram.add_argument(
        "--format",
        default="dense",
        help="representation of the vectors: dense (float32), dense(dtype=bfloat16), int(b=8), int(b=4), ...; they are "
        "optimised through it (default %(default)s)",
    )

    uncram = verb(
        "uncram",
        cramming.uncram,
        "print the text of a crammed file; refuses any other model than the one it was crammed for",
        "compressed-lm uncram note.clt --model runs/eiw",
    )
    uncram.add_argument("file", help="file that cram wrote")
    _model(uncram)

    study = verb(
        "cram-study",
        cramming.cram_study,
        "how much text fits into input vectors, over sources, lengths, K and formats: tables, figures, a report",
        "compressed-lm cram-study --model runs/bytes --lengths 8 16 32 64 --k 1 2 4 8 --formats 'int(b=8)' 'int(b=4)' "
        "--out runs/cramming",
    )
    _model(study)
    options.corpus(study)
    study.add_argument("--unseen", help="corpus of a domain that the model has not seen, for the source unseen")
    study.add_argument(
        "--sources",
        nargs="+",
        default=["natural", "words", "tokens"],
        choices=("natural", "unseen", "words", "tokens"),
        help="validation documents, documents of --unseen, random words of the training text, random tokens of the "
        "codec (default natural words tokens)",
    )
    study.add_argument(
        "--words", type=options.whole(1), default=10_000, help="length of the list of words (default %(default)s)"
    )
    study.add_argument(
        "--max_bytes",
        type=options.count_of_bytes(),
        default=8_000_000,
        help="most bytes of documents to read (default %(default)s)",
    )
    study.add_argument("--lengths", nargs="+", type=options.whole(1), required=True, help="tokens of a text")
    study.add_argument("--k", nargs="+", type=options.whole(1), default=[1], help="vectors of a text (default 1)")
    study.add_argument("--texts", type=options.whole(1), default=50, help="texts of each source (default %(default)s)")
    study.add_argument(
        "--formats", nargs="*", default=[], help="representations that the vectors are rounded to afterwards"
    )
    study.add_argument(
        "--trained_formats", nargs="*", default=[], help="representations that texts are crammed through, each anew"
    )
    study.add_argument(
        "--beyond",
        type=options.whole(),
        default=0,
        help="lengths beyond capacity: where this many are not reached, longer ones are left out; 0 for all lengths "
        "(default %(default)s)",
    )
    study.add_argument(
        "--restarts",
        type=options.whole(),
        default=0,
        help="texts that are crammed twice, to see what lies between two solutions (default %(default)s)",
    )
    study.add_argument("--lanes", type=options.whole(1), default=32, help="texts at once (default %(default)s)")
    study.add_argument("--out", required=True, help="folder of the study; started again, it goes on where it was")
    _optimization(study)
    study.add_argument("--margin", type=options.real(low=0), default=0.0, help=MARGIN_HELP)


MARGIN_HELP = (
    "a token is right where its logit is more than this above all others, so that rounding on another device changes "
    "none (default %(default)s)"
)


def _model(parser):
    parser.add_argument("--model", required=True, help="folder of a training run, imported ones included")
    parser.add_argument("--codec", help="its codec directory (default: RUN/codec if it is there, else bytes)")


def _optimization(parser):
    """Adds the settings of the optimisation; the defaults are the paper's."""
    parser.add_argument(
        "--method",
        default="full",
        help="full (the whole text at once) or progressive (ever more of it) (default %(default)s)",
    )
    parser.add_argument(
        "--steps", type=options.whole(1), default=5000, help="most updates of a text (default %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=options.whole(1),
        default=2000,
        help="updates without progress before giving up (default %(default)s)",
    )
    parser.add_argument(
        "--learning_rate", type=options.real(above=0), default=0.01, help="of AdamW (default %(default)s)"
    )
    parser.add_argument("--schedule", default="constant", help="constant, linear or cosine (default %(default)s)")
    parser.add_argument(
        "--warmup_steps", type=options.whole(), default=0, help="of the learning rate (default %(default)s)"
    )
    parser.add_argument(
        "--dimensions",
        type=options.whole(),
        default=0,
        help="numbers of a vector that are optimised and stored; 0 for all (default %(default)s)",
    )
    parser.add_argument("--seed", type=options.whole(), default=0, help="of the start (default %(default)s)")
