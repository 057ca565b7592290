"""Command `cram`: stores a text as K input vectors of a frozen model."""

import sys

from compressed_lm import io
from compressed_lm.commands import cram_options, options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import messages
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def add_arguments(parser):
    parser.add_path("text", kind=paths.READ, help="text file, or - for standard input")
    cram_options.add_model(parser)
    parser.add_argument("--k", type=options.whole(1), default=1, help="number of vectors (default %(default)s)")
    parser.add_path(
        "--out",
        kind=paths.FILE,
        required=True,
        help="file to write; it is written only if the text is restored exactly",
    )
    cram_options.add_optimization(parser)
    parser.add_argument("--margin", type=options.real(low=0), default=0.1, help=cram_options.MARGIN_HELP)
    parser.add_argument(
        "--format",
        default="dense",
        help="representation of the vectors: dense (float32), dense(dtype=bfloat16), int(b=8), int(b=4), ...; "
        "the vectors are optimised in it (default %(default)s)",
    )
    parser.add_path(
        "--stages",
        kind=paths.FILE,
        help="file (.npz) for the vectors of every stage of progressive cramming and the number of tokens that each "
        "restores; it is written also if the text does not fit",
    )
    parser.add_argument(
        "--save_every",
        type=options.whole(),
        default=60,
        help="seconds between writes of OUT.state, from which the command resumes if interrupted; it is removed at the "
        "end (default %(default)s)",
    )


def run(arguments):
    with locks.held(arguments.out):
        _run(arguments)


def _run(arguments):
    from compressed_lm import cramming
    from compressed_lm.cramming import code_length, compressors, metrics, vector_files

    data, name = io.read_bytes(arguments.text, "The text"), io.shown(arguments.text)
    config = cram_options.config(arguments)
    model, codec, longest = cram_options.model(arguments)
    ids = codec.encode(data)
    if not len(ids):
        raise InputError(f"{name} is empty; give a text of at least one byte.")
    if len(ids) + config.n_vectors > longest:
        print(
            f"note: {config.n_vectors} + {len(ids)} positions are needed; the model was trained on rows of {longest}.",
            file=sys.stderr,
        )

    states = []

    def attempt(config, description):
        state = None
        if not io.is_stream(arguments.out) and not io.is_remote(arguments.out):
            # Of each method: the whole text may fail, and the growing one be interrupted.
            state = io.local_path(f"{arguments.out}.{config.method}.state")
            states.append(state)
        found = _optimized(model, ids, config, description, state=state, save_every=arguments.save_every)
        stored = cramming.CrammedText.of(model, found, config, ids)
        return metrics.longest_exact_prefix(stored.attempt(model), ids), found, stored

    prefix, found, stored = attempt(config, f"cram {len(ids)} tokens")
    if prefix < len(ids) and config.method == "full":
        grown = attempt(cram_options.config(arguments, method="progressive"), "longest prefix that fits")
        prefix, found, stored = max(grown, (prefix, found, stored), key=lambda result: result[0])
    if arguments.stages:
        vector_files.write(arguments.stages, found)
    if prefix == len(ids):
        size = stored.save(arguments.out)
    for state in states:  # the result is stored, or known
        state.unlink(missing_ok=True)
    if prefix < len(ids):
        raise InputError(
            f"{name} does not fit: of its {len(ids)} tokens the model writes the first {prefix} from "
            f"{config.n_vectors} vector{'s' * (config.n_vectors > 1)}, {_quoted(codec.decode_partial(ids[:prefix]))}. "
            f"Nothing was written. Take more vectors (--k {2 * config.n_vectors}) or more steps (--steps "
            f"{2 * config.steps}), try --method progressive, or give only this prefix."
        )
    coded = int(code_length.coded_bits_alone(model, [ids])) // 8
    print(
        f"{arguments.out}: {len(data):,} bytes of text, {len(ids):,} tokens, in {config.n_vectors} x "
        f"{stored.mapping.stored} numbers of {config.format}, after {found.best_step:,} updates; the model restores "
        f"them exactly. The vectors have {stored.packed.nbytes:,} bytes, the file {size:,}; zlib compresses the text "
        f"to {compressors.sizes(data)['zlib_bytes']:,} bytes, arithmetic coding with this model to {coded:,}.",
        file=messages(arguments.out),
    )


def _optimized(model, ids, config, description, **saving):
    """Returns the result for one text; shows progress on stderr."""
    from compressed_lm.cramming import cram
    from compressed_lm.tracking.progress import progress

    with progress(description, config.steps, unit="steps") as bar:
        show = lambda status: bar.advance(status.steps - bar.done, right=f"{status.accuracy:.1%}")  # noqa: E731
        return cram(model, [ids], config, progress=show, **saving)[0]


def _quoted(data, most=60):
    text = data.decode(errors="replace")
    return repr(text if len(text) <= most else "..." + text[-most:])


COMMAND = Command(
    "cram",
    "cram a text into K input vectors, from which a frozen model restores it",
    "compressed-lm cram note.txt --model runs/eiw --k 1 --out note.clt",
    add_arguments,
    run,
    writes=True,
)
