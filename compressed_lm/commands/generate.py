"""Command `generate`: samples text and prints it while it is decoded."""

import sys

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run")
    options.add_codec(parser)
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument(
        "--n_tokens", type=options.whole(), default=200, help="most tokens to sample (default %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=options.real(low=0),
        default=0.8,
        help="temperature of sampling; 0 takes the most likely token (default %(default)s)",
    )
    parser.add_argument(
        "--top_k",
        type=options.whole(),
        default=0,
        help="sample from this many most likely tokens; 0 for all (default %(default)s)",
    )
    parser.add_argument("--seed", type=options.whole(), default=0, help="seed of the samples (default %(default)s)")


def run(arguments):
    from compressed_lm.evaluation import generate
    from compressed_lm.terminal import literal
    from compressed_lm.training import load_run

    run, codec = load_run(arguments.run), load_codec(arguments.codec)
    if run.codec_fingerprint != codec.fingerprint:
        raise InputError(
            f"The run {arguments.run} was trained on {run.codec_spec}, fingerprint "
            f"{run.codec_fingerprint[:12]}; the codec given is {codec.spec}, fingerprint {codec.fingerprint[:12]}. "
            "Give the codec that made its tokens."
        )
    parts = generate(
        run.params,
        run.model_config,
        codec,
        prompt=arguments.prompt.encode(),
        n_tokens=arguments.n_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    for part in parts:
        print(literal(part) if sys.stdout.isatty() else part, end="", flush=True)
    print()


COMMAND = Command(
    "generate",
    "sample text from a run and decode it",
    "compressed-lm generate runs/eiw --codec codecs/eiw16 --prompt 'The array'",
    add_arguments,
    run,
)
