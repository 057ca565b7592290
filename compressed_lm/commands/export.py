"""Command `export`: writes a run as a Hugging Face checkpoint, or as a GGUF file."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec
from compressed_lm.errors import InputError

DTYPES = ("keep", "float32", "bfloat16", "float16", "q8_0")
_GGUF_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def add_arguments(parser):
    parser.add_path("run", kind=paths.RUN, help="folder of a training run, packed or not")
    parser.add_path(
        "--out",
        kind=paths.EITHER,
        required=True,
        help="new folder, for AutoModelForCausalLM.from_pretrained; with --format gguf a new file, such as model.gguf",
    )
    options.add_codec(
        parser,
        required=False,
        help="codec of the run, to also write its tokenizer (default: RUN/codec if it exists)",
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "gguf"),
        default="safetensors",
        help="safetensors for transformers, or one GGUF file for llama.cpp (default %(default)s)",
    )
    parser.add_argument(
        "--file_gb",
        type=options.real(low=1e-9, high=1e6),
        help="most gigabytes per tensor file of safetensors (default 5)",
    )
    parser.add_argument(
        "--dtype",
        type=lambda name: _GGUF_NAMES.get(name, name),
        choices=DTYPES,
        default="keep",
        help="type of the tensors (default %(default)s: that of the imported checkpoint; float32 for quantised "
        "numbers and for runs that were trained here). float16 (f16) and q8_0 are for matrices in GGUF files",
    )


def run(arguments):
    gguf = arguments.format == "gguf"
    if gguf and arguments.file_gb is not None:
        raise InputError("--file_gb was given with --format gguf, which is one file. Leave it out.")
    if not gguf and arguments.dtype in ("float16", "q8_0"):
        raise InputError(f"--dtype {arguments.dtype} was given without --format gguf. Add it, or give another type.")
    if not gguf and str(arguments.out).endswith(".gguf"):
        raise InputError(f"--out {arguments.out} was given without --format gguf. Add it, or give a folder.")
    codec = load_codec(arguments.codec) if arguments.codec else None
    (_as_gguf if gguf else _as_safetensors)(arguments, codec)


def _as_gguf(arguments, codec):
    from compressed_lm.io import remote
    from compressed_lm.post_training.gguf import export_gguf

    written = export_gguf(arguments.run, out=arguments.out, codec=codec, dtype=arguments.dtype)
    vocabulary = (
        "its tokenizer is included"
        if written.has_vocabulary
        else f"without a vocabulary: its ids are those of {written.codec_spec}, which llama.cpp does not have"
    )
    size = remote.size(arguments.out)
    print(
        f"{arguments.out}: matrices in {written.dtype}, {size:,} bytes; {vocabulary}. llama.cpp and `compressed-lm "
        "import` read it."
    )


def _as_safetensors(arguments, codec):
    from compressed_lm import integrations
    from compressed_lm.post_training import huggingface

    values = huggingface.export_run(
        arguments.run,
        out=arguments.out,
        codec=codec,
        file_bytes=huggingface.FILE_BYTES if arguments.file_gb is None else round(arguments.file_gb * 1e9),
        dtype=arguments.dtype,
        tokenizer_of=integrations.export_tokenizer,
    )
    files, spec = values["files"], values["compressed_lm"]["codec"]
    if "tokenizer_config.json" in files:
        how = " (how to load it: TOKENIZER.md)" if "TOKENIZER.md" in files else ""
        tokenizer = f"its tokenizer is included{how}"
    elif values["has_codec"]:
        tokenizer = f"its ids are those of the codec {spec}, for which transformers has no tokenizer"
    else:
        tokenizer = (
            f"it has no tokenizer: {arguments.run} holds no codec, and its ids are those of {spec}. To write the "
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
    "export a run as a Hugging Face checkpoint or a GGUF file, if an architecture of transformers has this shape",
    "compressed-lm export runs/pythia-half --out pythia-half",
    add_arguments,
    run,
    writes=True,
)
