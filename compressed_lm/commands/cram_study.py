"""Command `cram-study`: measures how much text fits into input vectors, over a grid."""

from compressed_lm.commands import cram_options, options, paths
from compressed_lm.commands.command import Command
from compressed_lm.errors import InputError


def add_arguments(parser):
    cram_options.add_model(parser)
    options.add_corpus(parser)
    parser.add_path(
        "--unseen",
        kind=paths.CORPUS,
        help="corpus of a domain that the model was not trained on, for the source unseen",
    )
    parser.add_argument(
        "--sources",
        nargs="+",
        default=["natural", "words", "tokens"],
        choices=("natural", "unseen", "words", "tokens"),
        help="validation documents, documents of --unseen, random words of the training text, random tokens of the "
        "codec (default natural words tokens)",
    )
    parser.add_argument(
        "--words",
        type=options.whole(1),
        default=10_000,
        help="number of most frequent words to draw from (default %(default)s)",
    )
    parser.add_argument(
        "--max_bytes",
        type=options.count_of_bytes(),
        default=8_000_000,
        help="most bytes of documents to read (default %(default)s)",
    )
    parser.add_argument("--lengths", nargs="+", type=options.whole(1), required=True, help="tokens per text")
    parser.add_argument("--k", nargs="+", type=options.whole(1), default=[1], help="vectors per text (default 1)")
    parser.add_argument("--texts", type=options.whole(1), default=50, help="texts per source (default %(default)s)")
    parser.add_argument(
        "--formats", nargs="*", default=[], help="representations to which the finished vectors are rounded"
    )
    parser.add_argument(
        "--trained_formats",
        nargs="*",
        default=[],
        help="representations in which the vectors are optimised, with one run each",
    )
    parser.add_argument(
        "--beyond",
        type=options.whole(),
        default=0,
        help="skip longer texts after this many lengths above capacity; 0 for all lengths (default %(default)s)",
    )
    parser.add_argument(
        "--restarts",
        type=options.whole(),
        default=0,
        help="texts to cram twice, to compare the two solutions (default %(default)s)",
    )
    parser.add_argument(
        "--slots", type=options.whole(1), default=32, help="texts optimised at once (default %(default)s)"
    )
    parser.add_path(
        "--m1",
        kind=paths.READ,
        default="pretrained",
        help="folder of `train-m1`, or pretrained: byte model whose arithmetic coding is among the compressors that "
        "the report compares (default %(default)s)",
    )
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="folder of the study; resumes if interrupted")
    cram_options.add_optimization(parser)
    parser.add_argument("--margin", type=options.real(low=0), default=0.0, help=cram_options.MARGIN_HELP)


def run(arguments):
    from compressed_lm import codecs
    from compressed_lm.cramming import study
    from compressed_lm.pipelines.m1 import load_m1
    from compressed_lm.reports import cramming
    from compressed_lm.tracking.progress import progress

    grid = study.Study(
        lengths=tuple(sorted(set(arguments.lengths))),
        vectors=tuple(sorted(set(arguments.k))),
        formats=tuple(arguments.formats),
        trained_formats=tuple(arguments.trained_formats),
        beyond=arguments.beyond,
        restarts=arguments.restarts,
        config=cram_options.config(arguments, n_vectors=1, format="dense"),
    )
    model, codec, longest = cram_options.model(arguments)
    if max(grid.lengths) + max(grid.vectors) > longest:
        raise InputError(
            f"{max(grid.lengths)} tokens after {max(grid.vectors)} vectors were given, but the model was trained on "
            f"rows of {longest} positions; expected at most that many. Give shorter --lengths or a smaller --k."
        )
    arithmetic = codecs.create("ac", m1=load_m1(arguments.m1))
    texts = _texts(arguments, codec, max(grid.lengths))
    n_cells = len(grid.cells) * len(texts)
    with progress("cram", n_cells, unit="cells") as bar:
        seen = []

        def show(cell, status):
            if cell not in seen:
                seen.append(cell)
            done = f"{status.steps / status.total_steps:.0%}"
            bar.advance(len(seen) - 1 - bar.done, cell=cell, steps=done, right=f"{status.accuracy:.1%}")

        settings = dict(slots=arguments.slots, arithmetic=arithmetic, progress=show)
        out = study.run_study(model, codec, texts, grid, out=arguments.out, **settings)
        bar.advance(n_cells - bar.done)
    written = cramming.write_report(out)
    print(f"The report is {written[0]}; its tables are {', '.join(p.name for p in written if p.suffix == '.csv')}.")


def _texts(arguments, codec, n_tokens):
    """Returns the texts of each source that --sources names."""
    from compressed_lm.cramming import texts
    from compressed_lm.data.job import take_bytes
    from compressed_lm.data.sources import open_corpus

    settings = dict(n_tokens=n_tokens, n_texts=arguments.texts, seed=arguments.seed or 0)
    corpus = open_corpus(arguments.corpus, validation=arguments.validation)

    def documents(corpus, split):
        return take_bytes(corpus.documents(split), arguments.max_bytes)

    def unseen():
        if not arguments.unseen:
            raise InputError("--sources names unseen and --unseen was not given; give a corpus of another domain.")
        other = open_corpus(arguments.unseen)
        return texts.natural(documents(other, other.splits[-1]), codec, **settings)

    makers = {
        "natural": lambda: texts.natural(documents(corpus, "validation"), codec, **settings),
        "unseen": unseen,
        "words": lambda: texts.random_words(
            texts.frequent_words(documents(corpus, "train"), arguments.words), codec, **settings
        ),
        "tokens": lambda: texts.random_tokens(codec, **settings),
    }
    return {source: makers[source]() for source in arguments.sources}


COMMAND = Command(
    "cram-study",
    "measure how much text fits into input vectors, over sources, lengths, K and formats: tables, figures, a report",
    "compressed-lm cram-study --model runs/bytes --lengths 8 16 32 64 --k 1 2 4 8 --formats 'int(b=8)' 'int(b=4)' "
    "--out runs/cramming",
    add_arguments,
    run,
    writes=True,
)
