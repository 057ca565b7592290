"""Commands of `compressed-lm`: one module per command, with its parser and its function.

A module defines `COMMAND`. Heavy imports are inside `add_arguments` and `run`, so that `compressed-lm --help` is
instant.
"""

import importlib

from compressed_lm.commands.command import Command

MODULES = (
    *("demo", "doctor"),
    *("build_codec", "train_m1", "compile", "encode", "decode", "verify", "compress", "inspect"),
    *("train", "evaluate", "generate", "sweep", "report", "fit"),
    *("quantize", "pack", "unpack", "weights", "reshape", "shrink", "import_", "export"),
    "export_tokenizer",
    *("cram", "uncram", "cram_study"),
)
"""Names of the modules, in the order of the help page."""


def commands() -> dict[str, Command]:
    """Returns the commands by name."""
    modules = (importlib.import_module(f"compressed_lm.commands.{name}") for name in MODULES)
    return {module.COMMAND.name: module.COMMAND for module in modules}
