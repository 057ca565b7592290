"""Command `generate`: samples text and prints it while it is decoded."""

import sys

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec_of
from compressed_lm.errors import InputError

TEMPERATURE, CHAT_TEMPERATURE = 0.8, 0.0


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run, or of an imported model")
    options.add_codec(parser, required=False, help="codec of the run, as for compress (default: RUN/codec)")
    parser.add_argument("--prompt", default="", help="text to continue; with --chat, the user's message")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="put the prompt into the chat template of an imported model, and print only the answer (pip: extra [hf])",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message of --chat (default: the template's)")
    parser.add_argument(
        "--special",
        action="store_true",
        help="special tokens in the prompt, such as <|im_start|>, get their ids instead of those of their characters",
    )
    parser.add_argument(
        "--n_tokens", type=options.whole(), default=200, help="most tokens to sample (default %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=options.real(low=0),
        help=f"temperature of sampling; 0 takes the most likely token (default {TEMPERATURE}; with --chat "
        f"{CHAT_TEMPERATURE:g})",
    )
    parser.add_argument(
        "--top_k",
        type=options.whole(),
        default=0,
        help="sample from this many most likely tokens; 0 for all (default %(default)s)",
    )
    parser.add_argument("--seed", type=options.whole(), default=0, help="seed of the samples (default %(default)s)")


def run(arguments):
    from compressed_lm import codecs
    from compressed_lm.evaluation.generate import generate, room
    from compressed_lm.terminal import literal
    from compressed_lm.training import load_run
    from compressed_lm.training.checkpoints import folder
    from compressed_lm.training.run_dir import read_record

    record = read_record(folder(arguments.run)) or {}
    codec = load_codec_of(arguments.run, arguments.codec)
    special = codecs.special_tokens_of(codec, record.get("imported"))
    prompt, start = _prompt(arguments, codec, special)  # before the parameters are loaded
    run = load_run(arguments.run)
    if run.codec_fingerprint != codec.fingerprint:
        raise InputError(
            f"The run {arguments.run} was trained on {run.codec_spec}, fingerprint "
            f"{run.codec_fingerprint[:12]}; the codec given is {codec.spec}, fingerprint {codec.fingerprint[:12]}. "
            "Give the codec that made its tokens."
        )
    n_given, n_tokens = len(start) + len(prompt), arguments.n_tokens
    needed, most = n_given + n_tokens, room(run.model_config, n_given)
    if most == 0:
        raise InputError(
            f"The prompt has {n_given:,} ids, and the model of {arguments.run} has {run.model_config.max_length:,} "
            "learned positions. Give a shorter prompt."
        )
    if most is not None and n_tokens > most:
        print(
            f"warning: at most {most:,} tokens are sampled: the model has {run.model_config.max_length:,} learned "
            "positions.",
            file=sys.stderr,
        )
        n_tokens = most
    elif special.length and needed > special.length:
        print(
            f"warning: {needed:,} positions may be needed (prompt and --n_tokens), and the model was made for texts of "
            f"{special.length:,} tokens.",
            file=sys.stderr,
        )
    parts = generate(
        run.params,
        run.model_config,
        codec,
        prompt=prompt,
        echo=not arguments.chat,
        start=start,
        stop=special.stop,
        n_tokens=n_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    for part in parts:
        print(literal(part) if sys.stdout.isatty() else part, end="", flush=True)
    print()


def _prompt(arguments, codec, special):
    """Returns the ids of the prompt, int32[T], and the ids before it; sets the default temperature."""
    from compressed_lm import codecs
    from compressed_lm.codecs import chat

    if arguments.temperature is None:
        arguments.temperature = CHAT_TEMPERATURE if arguments.chat else TEMPERATURE
    if arguments.system is not None and not arguments.chat:
        raise InputError("--system was given without --chat. Add --chat, or put the text into --prompt.")
    if not arguments.chat:
        ids = codecs.prompt_ids(codec, arguments.prompt, special=arguments.special)
        return ids, special.start if len(ids) or special.start else (special.first,)
    if special.template is None:
        raise InputError(
            f"--chat was given, but {arguments.run} has no chat template: it was trained here, or it was imported from "
            "a base model. Leave --chat out, and give a text to continue as --prompt."
        )
    messages = chat.messages_of(arguments.prompt, system=arguments.system)
    text = chat.render(special.template, messages, special_tokens=special.names)
    return codecs.prompt_ids(codec, text), ()


COMMAND = Command(
    "generate",
    "sample text from a run and decode it",
    "compressed-lm generate runs/eiw --codec codecs/eiw16 --prompt 'The array'",
    add_arguments,
    run,
)
