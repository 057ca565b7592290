"""Command `import`: converts a pretrained checkpoint to a run."""

from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import load_codec


def add_arguments(parser):
    from compressed_lm.models.huggingface import ARCHITECTURES

    parser.add_path(
        "source",
        kind=paths.READ,
        help="folder with config.json, *.safetensors and tokenizer.json or tokenizer.model; GGUF file; or "
        f"package:NAME, an installed package with one GGUF file; model_type: {', '.join(ARCHITECTURES)} "
        "(pip: extra [hf])",
    )
    parser.add_path(
        "--out", kind=paths.FOLDER, required=True, help="new folder; the tokenizer becomes the codec OUT/codec"
    )
    options.add_codec(parser, required=False, help="codec directory, or bytes, if the folder has no tokenizer")
    parser.add_argument(
        "--eod",
        type=options.whole(),
        metavar="ID",
        help="end-of-document id, put before each row (default: eos_token_id of the checkpoint)",
    )
    parser.add_argument(
        "--seq_len", type=options.whole(1), help="tokens per row (default: the context of the model, at most 2048)"
    )
    parser.add_argument(
        "--dtype",
        choices=("keep", "float32", "bfloat16"),
        default="keep",
        help="type of the stored numbers (default %(default)s: that of each tensor; float32 for float64 and for "
        "quantised GGUF tensors)",
    )
    parser.add_argument(
        "--missing_bytes",
        choices=("escape", "refuse"),
        default="escape",
        help="bytes that the tokenizer has no token for: three ids each, or refuse text that has them "
        "(default %(default)s)",
    )


def run(arguments):
    from compressed_lm.models import count_params
    from compressed_lm.post_training import huggingface

    run, codec = huggingface.import_run(
        arguments.source,
        out=arguments.out,
        codec=load_codec(arguments.codec) if arguments.codec else None,
        eod=arguments.eod,
        seq_len=arguments.seq_len,
        dtype=arguments.dtype,
        missing_bytes=arguments.missing_bytes,
    )
    counts, out = count_params(run.model_config), arguments.out
    print(
        f"{out}: {counts.total:,} parameters, {counts.non_embedding:,} of them outside the embeddings, as "
        f"{' and '.join(sorted(set(run.dtypes.values())))} in {run.nbytes:,} bytes ({run.source_nbytes:,} in the "
        f"checkpoint); its codec {codec.spec} is in {out}/{huggingface.CODEC}, end-of-document is id {run.eod_id}. "
        "Next:\n"
        f"  compressed-lm generate {out} --prompt 'The array'\n"
        f"  compressed-lm evaluate {out} --corpus 'text:*.txt'\n"
        f"  compressed-lm quantize {out} --format 'int(b=8,g=32,scale=absmax)' --out {out}-int8"
    )


COMMAND = Command(
    "import",
    "import a pretrained checkpoint (Hugging Face or GGUF) as a run",
    "compressed-lm import pythia-70m --out runs/pythia",
    add_arguments,
    run,
    writes=True,
)
