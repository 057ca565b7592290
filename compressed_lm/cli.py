"""Entry point of `compressed-lm`: parses the command, checks its paths, runs it and reports errors."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from compressed_lm import __version__
from compressed_lm.commands import commands, failures, interrupts, paths
from compressed_lm.commands.command import Command
from compressed_lm.io import locks
from compressed_lm.specs import did_you_mean

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in a shell."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 2 after an error that the message explains, 130 after Ctrl-C.
    """
    command, arguments, known = _parse(sys.argv[1:] if argv is None else list(argv))
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also logs the tracebacks that it raises
    notices = logging.getLogger("compressed_lm")  # such as the compilation of loops
    notices.setLevel(logging.INFO)
    notices.handlers = [logging.StreamHandler()]  # to the standard error of this call
    notices.propagate = False  # libraries give the root logger handlers, too, and each notice would appear twice
    status = 2
    interrupts.catch_all()
    try:
        paths.check(arguments, known)
        locks.WAIT.set(getattr(arguments, "wait", False))
        if getattr(arguments, "devices", None):
            from compressed_lm.training import use_cpu_devices

            use_cpu_devices(arguments.devices)
        return command.run(arguments) or 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would report it again at exit
    except KeyboardInterrupt:
        print(
            "Interrupted. Finished shards, checkpoints and files are kept: repeat the command to resume.",
            file=sys.stderr,
        )
        status = INTERRUPTED
    except Exception as error:
        message = failures.explain(error)
        if message is None:
            error.add_note(failures.REPORT)
            raise
        print(f"error: {message}", file=sys.stderr)
    if "compressed_lm.distributed.processes" in sys.modules:
        sys.modules["compressed_lm.distributed.processes"].leave(status)  # other processes of the run would wait
    return status


def program() -> None:
    """Runs `main` as the whole process and exits with its status."""
    status = main()
    if status == INTERRUPTED:  # an interrupted compilation may crash during a normal exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace, dict]:
    """Returns the command, its parsed arguments and their paths; builds only the parser of this command."""
    known = commands()
    parser = argparse.ArgumentParser(
        prog="compressed-lm",
        description="Train language models over compressed text, weights and input vectors, and compare them in bits "
        "per byte. `compressed-lm COMMAND --help` explains a command.",
        epilog="commands:\n" + "\n".join(f"  {name:12s} {command.summary}" for name, command in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"compressed_lm {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    name = parser.parse_args(argv[:1]).command
    if name not in known:
        parser.error(f"there is no command {name!r}.{did_you_mean(name, known)} The commands: {', '.join(known)}")
    command = known[name]
    own = command.parser()
    return command, own.parse_args(argv[1:]), own.paths
