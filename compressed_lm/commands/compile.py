"""Command `compile`: compiles Equal-Info Windows of at most 16 bits into one dictionary file."""

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import messages
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def add_arguments(parser):
    parser.add_path(
        "--m1", kind=paths.READ, required=True, help="folder of `train-m1`, or pretrained (only with --rounds 0)"
    )
    parser.add_argument("--b", type=options.whole(8, 16), default=16, help="bits per window (default %(default)s)")
    parser.add_argument(
        "--v", type=options.whole(2, 65536), help="vocabulary size (default: one token per window, 2**b)"
    )
    parser.add_argument("--align", default="none", help="none, or word: a window ends before the start of a word")
    parser.add_argument(
        "--fill", default="node", help="node (windows of equal information) or best (the 2**b most likely strings)"
    )
    parser.add_argument(
        "--rounds",
        type=options.whole(),
        default=0,
        help="number of refit rounds: each continues training M1 on the starts of its windows, then compiles again "
        "(default %(default)s)",
    )
    parser.add_path("--out", kind=paths.FILE, required=True, help="file to write; finished rounds are in OUT.rounds")


def run(arguments):
    from compressed_lm import codecs
    from compressed_lm.pipelines import build_codec, refit
    from compressed_lm.pipelines.m1 import load_m1

    v = arguments.v or 1 << arguments.b
    spec = f"eiw(b={arguments.b},v={v},align={arguments.align},fill={arguments.fill})"
    if arguments.rounds and io.is_stream(arguments.out):
        raise InputError(
            f"--rounds was given, and --out {arguments.out} is not a file; rounds are kept in OUT.rounds. Give a file."
        )
    with locks.held(arguments.out):
        if arguments.rounds:
            codec = refit.refit(spec, arguments.m1, rounds=arguments.rounds, out=arguments.out + ".rounds")
        else:
            codec = build_codec.build(spec, m1=load_m1(arguments.m1))
        size = codecs.save_dictionary(codec, arguments.out)
    print(
        f"{codec.spec} is in {arguments.out}, {size:,} bytes, fingerprint {codec.fingerprint[:12]}.",
        file=messages(arguments.out),
    )


COMMAND = Command(
    "compile",
    "compile windows of at most 16 bits into one dictionary file, which needs neither M1 nor JAX",
    "compressed-lm compile --m1 runs/m1 --b 16 --out eiw16.clmd",
    add_arguments,
    run,
    writes=True,
)
