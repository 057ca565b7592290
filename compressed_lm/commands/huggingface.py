"""Verbs that bring models of Hugging Face in and out. Imports wait until their verb runs, so that `--help` is
instant."""

from compressed_lm.commands.common import load_codec


def import_(arguments):
    """Writes a checkpoint of Hugging Face as a run."""
    from compressed_lm.models import count_params
    from compressed_lm.post_training import huggingface

    run, codec = huggingface.import_run(
        arguments.folder,
        out=arguments.out,
        codec=load_codec(arguments.codec) if arguments.codec else None,
        eod=arguments.eod,
        seq_len=arguments.seq_len,
    )
    counts, out = count_params(run.model_config), arguments.out
    print(
        f"{out}: {counts.total:,} parameters, {counts.non_embedding:,} of them outside the embeddings; its codec "
        f"{codec.spec} is in {out}/{huggingface.CODEC}, end-of-document is id {run.eod_id}. Next:\n"
        f"  compressed-lm generate {out} --codec {out}/{huggingface.CODEC} --prompt 'The array'\n"
        f"  compressed-lm compress --corpus 'text:*.txt' --codec {out}/{huggingface.CODEC} --out stores/text\n"
        f"  compressed-lm evaluate {out} --codec {out}/{huggingface.CODEC} --tokens stores/text --train_tokens "
        "stores/text\n"
        f"  compressed-lm quantize {out} --format 'int(b=4,g=32)' --out {out}-int4"
    )


def export(arguments):
    """Writes a run as a checkpoint of Hugging Face."""
    from compressed_lm.post_training import huggingface

    values = huggingface.export_run(
        arguments.run,
        out=arguments.out,
        codec=load_codec(arguments.codec) if arguments.codec else None,
        file_bytes=round(arguments.file_gb * 1e9),
    )
    files, codec = values["files"], values["compressed_lm"]["codec"]
    if "tokenizer_config.json" in files:
        tokenizer = "its tokenizer is there too"
    elif values["has_codec"]:
        tokenizer = f"its ids are those of the codec {codec}, a kind that transformers has no tokenizer for"
    else:
        tokenizer = (
            f"it has no tokenizer: {arguments.run} holds no codec, and its ids are those of {codec}. To write the "
            "tokenizer too, export to a new folder with --codec and the directory of that codec, such as RUN/codec of "
            "the run that was imported"
        )
    print(
        f"{arguments.out}: {values['architectures'][0]} in {', '.join(files)}; {tokenizer}. Load it with "
        f"AutoModelForCausalLM.from_pretrained({str(arguments.out)!r})."
    )
