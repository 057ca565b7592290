"""Command `export-tokenizer`: writes a codec as a tokenizer of transformers."""

from compressed_lm.commands import paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError


def add_arguments(parser):
    from compressed_lm import codecs

    shipped = ", ".join(["bytes", *codecs.shipped()])
    parser.add_path(
        "codec",
        kind=paths.READ,
        help=f"codec directory, dictionary file, name of a shipped codec ({shipped}), or spec of a codec that is not "
        "trained, such as gzip(v=65536)",
    )
    parser.add_path("--out", kind=paths.FOLDER, required=True, help="new folder, for AutoTokenizer.from_pretrained")


def run(arguments):
    from compressed_lm import integrations
    from compressed_lm.io import folders, write_atomic

    codec = _codec(arguments.codec)
    files = integrations.export_tokenizer(codec)
    with folders.new(arguments.out, "The folder of the tokenizer") as folder:
        for name, content in files.items():
            write_atomic(folder / name, content)
    own = integrations.README in files
    module, name = ("compressed_lm.integrations.transformers", integrations.CLASS)
    if not own:
        module, name = "transformers", "AutoTokenizer"
    note = (
        f"transformers needs this package to encode; AutoTokenizer finds the class after `import {module}`"
        if own
        else "transformers encodes with it, without this package"
    )
    print(f"{arguments.out}: {codec.spec} in {', '.join(sorted(files))}; {note}. Load it with")
    print(f"from {module} import {name}\ntokenizer = {name}.from_pretrained({str(arguments.out)!r})")


def _codec(name: str):
    """Returns the codec of a name, a path or a spec."""
    from compressed_lm import codecs, io

    if name.partition("(")[0].strip() not in codecs.FAMILIES or io.any_path(name, "The codec").exists():
        return load_codec(name)
    codecs.parse_spec(name)
    try:
        return codecs.create(name)
    except InputError:
        raise InputError(
            f"{name} is the spec of a codec that is built first. Run `compressed-lm build-codec '{name}' --out DIR` "
            "(see its --help for M1 and the corpus), and give DIR."
        ) from None


COMMAND = Command(
    "export-tokenizer",
    "write a codec as a tokenizer of transformers",
    "compressed-lm export-tokenizer pieces16-en --out tokenizers/pieces16-en",
    add_arguments,
    run,
    writes=True,
)
