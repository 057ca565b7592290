"""Verbs that cram texts into input vectors. Imports wait until their verb runs, so that `--help` is instant."""

import sys
import zlib

from compressed_lm import io
from compressed_lm.commands.common import load_codec, messages
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def cram(arguments):
    """Crams a text into vectors, and writes them to a file once the model has written the text out of them."""
    with locks.held(arguments.out):
        _cram(arguments)


def _cram(arguments):
    from compressed_lm import cramming
    from compressed_lm.cramming import code_length, metrics

    data, name = io.read_bytes(arguments.text, "The text"), io.shown(arguments.text)
    model, codec, longest = _model(arguments)
    ids, config = codec.encode(data), _config(arguments)
    if not len(ids):
        raise InputError(f"{name} is empty; give a text of at least one byte.")
    if len(ids) + config.n_vectors > longest:
        print(
            f"note: {config.n_vectors} + {len(ids)} positions; the model was trained on rows of {longest}.",
            file=sys.stderr,
        )

    def attempt(config, description):
        found = _optimized(model, ids, config, description)
        stored = cramming.CrammedText.of(model, found, config, ids)
        return metrics.longest_exact_prefix(stored.attempt(model), ids), found, stored

    prefix, found, stored = attempt(config, f"cram {len(ids)} tokens")
    if prefix < len(ids) and config.method == "full":
        grown = attempt(_config(arguments, method="progressive"), "longest prefix that fits")
        prefix, found, stored = max(grown, (prefix, found, stored), key=lambda result: result[0])
    if prefix < len(ids):
        raise InputError(
            f"{name} does not fit: of its {len(ids)} tokens the model writes the first {prefix} out of "
            f"{config.n_vectors} vector{'s' * (config.n_vectors > 1)}, {_quoted(codec.decode_partial(ids[:prefix]))}. "
            f"Nothing was written. Take more vectors (--k {2 * config.n_vectors}) or more steps (--steps "
            f"{2 * config.steps}), try --method progressive, or cram this much of it."
        )
    size = stored.save(arguments.out)
    coded = int(code_length.coded_bits_alone(model, [ids])) // 8
    print(
        f"{arguments.out}: {len(data):,} bytes of text, {len(ids):,} tokens, in {config.n_vectors} x "
        f"{stored.mapping.stored} numbers of {config.format}, after {found.best_step:,} updates; the model writes them "
        f"out exactly. The vectors have {stored.packed.nbytes:,} bytes, the file {size:,}; zlib makes "
        f"{len(zlib.compress(data, 9)):,} of the text, arithmetic coding with this model {coded:,}.",
        file=messages(arguments.out),
    )


def uncram(arguments):
    """Prints the text of a file, byte for byte."""
    from compressed_lm.cramming import CrammedText

    crammed = CrammedText.load(arguments.file)
    model, codec, _ = _model(arguments)
    sys.stdout.buffer.write(codec.decode(crammed.write(model)))
    sys.stdout.buffer.flush()


def cram_study(arguments):
    """Crams a grid of texts, and writes rows, tables, figures and a report."""
    from compressed_lm.cramming import study
    from compressed_lm.reports import cramming
    from compressed_lm.tracking.progress import progress

    model, codec, longest = _model(arguments)
    grid = study.Study(
        lengths=tuple(sorted(set(arguments.lengths))),
        vectors=tuple(sorted(set(arguments.k))),
        formats=tuple(arguments.formats),
        trained_formats=tuple(arguments.trained_formats),
        beyond=arguments.beyond,
        restarts=arguments.restarts,
        config=_config(arguments, n_vectors=1, format="dense"),
    )
    if max(grid.lengths) + max(grid.vectors) > longest:
        raise InputError(
            f"{max(grid.lengths)} tokens after {max(grid.vectors)} vectors were asked for, and the model was trained "
            f"on rows of {longest}, beyond which its losses mean little. Give shorter --lengths or a smaller --k."
        )
    texts = _texts(arguments, codec, max(grid.lengths))
    n_cells = len(grid.cells) * len(texts)
    with progress("cram", n_cells, unit="cells") as bar:
        seen = []

        def show(cell, status):
            if cell not in seen:
                seen.append(cell)
            done = f"{status.steps / status.total_steps:.0%}"
            bar.advance(len(seen) - 1 - bar.done, cell=cell, steps=done, right=f"{status.accuracy:.1%}")

        out = study.run_study(model, codec, texts, grid, out=arguments.out, lanes=arguments.lanes, progress=show)
        bar.advance(n_cells - bar.done)
    paths = cramming.write_report(out)
    print(f"The report is {paths[0]}; its tables are {', '.join(p.name for p in paths if p.suffix == '.csv')}.")


def _texts(arguments, codec, n_tokens):
    """Returns the texts of each source that --sources names."""
    from compressed_lm.cramming import texts
    from compressed_lm.data.job import take_bytes
    from compressed_lm.data.sources import open_corpus

    settings = dict(n_tokens=n_tokens, n_texts=arguments.texts, seed=arguments.seed)
    corpus = open_corpus(arguments.corpus, validation=arguments.validation)

    def documents(corpus, split):
        return take_bytes(corpus.documents(split), arguments.max_bytes)

    def unseen():
        if not arguments.unseen:
            raise InputError("--sources names unseen and --unseen was not given; name a corpus of another domain.")
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


def _model(arguments):
    """Returns the frozen model of --model, its codec, and the tokens of the rows it was trained on."""
    from compressed_lm.cramming import FrozenModel
    from compressed_lm.training import load_run
    from compressed_lm.training.run_dir import own_codec

    codec = load_codec(arguments.codec or str(own_codec(arguments.model) or "bytes"))
    run = load_run(arguments.model, codec=codec)
    return FrozenModel.from_run(run), codec, run.train_config.seq_len


def _config(arguments, **changes):
    """Returns the settings of cramming that the options give."""
    from compressed_lm.cramming import CramConfig

    names = ("method", "steps", "patience", "learning_rate", "schedule", "warmup_steps", "margin", "dimensions", "seed")
    given = {name: getattr(arguments, name) for name in names} | {"format": getattr(arguments, "format", "dense")}
    return CramConfig(**dict(n_vectors=arguments.k) | given | changes)


def _optimized(model, ids, config, description):
    """Returns what is found for one text, with its progress on stderr."""
    from compressed_lm.cramming import cram
    from compressed_lm.tracking.progress import progress

    with progress(description, config.steps, unit="steps") as bar:
        show = lambda status: bar.advance(status.steps - bar.done, right=f"{status.accuracy:.1%}")  # noqa: E731
        return cram(model, [ids], config, progress=show)[0]


def _quoted(data, most=60):
    text = data.decode(errors="replace")
    return repr(text if len(text) <= most else "..." + text[-most:])
