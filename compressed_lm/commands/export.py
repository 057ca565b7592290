"""Command `export`: writes a run as a Hugging Face checkpoint."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run, packed or not")
    parser.add_path(
        "--out", kind=paths.FOLDER, required=True, help="new folder, for AutoModelForCausalLM.from_pretrained"
    )
    options.add_codec(
        parser,
        required=False,
        help="codec of the run, to also write its tokenizer (default: RUN/codec if it exists)",
    )
    parser.add_argument(
        "--file_gb",
        type=options.real(low=1e-9, high=1e6),
        default=5.0,
        help="most gigabytes per tensor file (default %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("keep", "float32", "bfloat16"),
        default="keep",
        help="type of the tensors (default %(default)s: that of the imported checkpoint; float32 for quantised "
        "numbers and for runs that were trained here)",
    )


def run(arguments):
    from compressed_lm import integrations
    from compressed_lm.post_training import huggingface

    values = huggingface.export_run(
        arguments.run,
        out=arguments.out,
        codec=load_codec(arguments.codec) if arguments.codec else None,
        file_bytes=round(arguments.file_gb * 1e9),
        dtype=arguments.dtype,
        tokenizer_of=integrations.export_tokenizer,
    )
    files, codec = values["files"], values["compressed_lm"]["codec"]
    if "tokenizer_config.json" in files:
        how = " (how to load it: TOKENIZER.md)" if "TOKENIZER.md" in files else ""
        tokenizer = f"its tokenizer is included{how}"
    elif values["has_codec"]:
        tokenizer = f"its ids are those of the codec {codec}, for which transformers has no tokenizer"
    else:
        tokenizer = (
            f"it has no tokenizer: {arguments.run} holds no codec, and its ids are those of {codec}. To write the "
            "tokenizer too, export to a new folder with --codec and the directory of that codec, such as RUN/codec of "
            "the run that was imported"
        )
    kind, dtype = values["architectures"][0], values["torch_dtype"]
    print(
        f"{arguments.out}: {kind} in {', '.join(files)}, {dtype}; {tokenizer}. Load it with "
        f"AutoModelForCausalLM.from_pretrained({str(arguments.out)!r})."
    )


COMMAND = Command(
    "export",
    "export a run as a Hugging Face checkpoint, if an architecture of transformers has this shape",
    "compressed-lm export runs/pythia-half --out pythia-half",
    add_arguments,
    run,
    writes=True,
)
