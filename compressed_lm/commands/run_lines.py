"""The command lines of verbs that take a finished run and look at it, or write another one."""

from collections.abc import Callable

from compressed_lm.commands import huggingface, options, shrinking, weights


def add(verb: Callable) -> None:
    """Adds the verbs; `verb` makes the parser of one from its name, function, summary and example."""
    quantize = verb(
        "quantize",
        weights.quantize,
        "the matrices of a finished run in a compressed format, packed; evaluate and generate take the result",
        "compressed-lm quantize runs/eiw --format 'int(b=4,g=32)' --out runs/eiw-int4",
    )
    quantize.add_argument("run", help="folder of a training run")
    quantize.add_argument(
        "--format",
        required=True,
        help="representation of the blocks' matrices: int(b=4,g=32), ternary, e4m3, rf8, mxfp4, nvfp4, "
        "sparse(s=0.5), nm(n=2,m=4)+int(b=4), vq(dim=2,bits=2), ... (an unknown one lists all)",
    )
    quantize.add_argument(
        "--others", default="dense", help="of all else, such as dense(dtype=bfloat16) (default %(default)s)"
    )
    quantize.add_argument("--out", required=True, help="new folder")

    pack = verb(
        "pack",
        weights.pack,
        "a finished run as one file of quantised, entropy-coded weights",
        "compressed-lm pack runs/eiw --step 0.25std --coder range --out runs/eiw.clb",
    )
    pack.add_argument("run", help="folder of a training run")
    pack.add_argument(
        "--step", required=True, help="distance between levels: 0.01, or 0.25std for a part of each array's deviation"
    )
    pack.add_argument("--coder", default="range", help="range, eg0, eg, rice, raw or float32 (default %(default)s)")
    pack.add_argument("--out", required=True, help="new file, or - for the standard output")

    unpack = verb(
        "unpack",
        weights.unpack,
        "a packed file as a run again, which evaluate and generate take",
        "compressed-lm unpack runs/eiw.clb --out runs/eiw-unpacked",
    )
    unpack.add_argument("file", help="file that pack wrote")
    unpack.add_argument("--out", required=True, help="new folder")
    unpack.add_argument("--codec", help="the run's codec directory, to keep a copy in OUT/codec, where export finds it")

    reshape = verb(
        "reshape",
        weights.reshape,
        "a finished run with its matrices reshaped to another generalized Gaussian (DeepShape)",
        "compressed-lm reshape runs/eiw --out runs/eiw-reshaped",
    )
    reshape.add_argument("run", help="folder of a training run")
    reshape.add_argument(
        "--shape_factor", type=options.real(above=0), default=0.8, help="of the shape (default %(default)s)"
    )
    reshape.add_argument(
        "--scale_factor", type=options.real(above=0), default=0.6, help="of the scale (default %(default)s)"
    )
    reshape.add_argument("--method", default="histogram", help="histogram or smooth (default %(default)s)")
    reshape.add_argument("--pooled", action="store_true", help="one fit for all matrices instead of one for each")
    reshape.add_argument("--out", required=True, help="new folder")

    fitted = verb(
        "weights",
        weights.weights,
        "what the weights of a run are distributed like: shapes of generalized Gaussians, and which family fits best",
        "compressed-lm weights runs/eiw --out runs/eiw/weights.html",
    )
    fitted.add_argument("run", help="folder of a training run, packed or not")
    fitted.add_argument("--out", help="HTML page to write: the table, and histograms with fitted densities")

    shrink = verb(
        "shrink",
        shrinking.shrink,
        "a smaller model out of a finished run, by trained projections of its weights (projected compression)",
        "compressed-lm shrink runs/base --keep 0.5 --tokens stores/c4 --out runs/half --steps 500",
    )
    shrink.add_argument("run", help="folder of a training run")
    shrink.add_argument(
        "--keep", type=options.real(above=0, high=1), required=True, help="share of the parameters to keep, such as 0.5"
    )
    shrink.add_argument(
        "--tokens", required=True, help="token store of the run's codec, to choose with and to train on"
    )
    shrink.add_argument(
        "--method",
        default="projected",
        help="projected (options: w_a=0 without the additive matrix, start=svd, base=random for a control), pruned "
        "(start=svd), scratch, low_rank (default %(default)s). Projections want a lower learning rate than the others",
    )
    shrink.add_argument(
        "--importance",
        default="activations",
        help="what says which dimensions are kept: activations, magnitude or index (default %(default)s)",
    )
    shrink.add_argument(
        "--calibration",
        type=options.whole(1),
        default=512,
        help="rows of text for the activations (default %(default)s)",
    )
    shrink.add_argument(
        "--aspect",
        type=options.real(above=0),
        help="d_ff / d_model of the small model (default: that of the large one)",
    )
    shrink.add_argument(
        "--multiple", type=options.whole(1), default=8, help="both widths are multiples of it (default %(default)s)"
    )
    shrink.add_argument("--out", required=True, help="folder of the small run; started again, it goes on where it was")
    shrink.add_argument("--validation_tokens", help="token store of validation documents, for a learning curve")
    shrink.add_argument(
        "--mesh", type=options.mesh, help="sizes of the axes data,fsdp,tensor (default: all devices on data)"
    )
    shrink.add_argument(
        "--dry_run",
        action="store_true",
        help="only print parameters, FLOPs and memory of the training; OUT stays empty",
    )
    options.training(shrink, size=False)

    import_ = verb(
        "import",
        huggingface.import_,
        "a Hugging Face checkpoint as a run (llama, mistral, qwen2, qwen3, gpt_neox; a local folder; pip: extra [hf])",
        "compressed-lm import pythia-70m --out runs/pythia",
    )
    import_.add_argument("folder", help="with config.json, *.safetensors and tokenizer.json or tokenizer.model")
    import_.add_argument("--out", required=True, help="new folder; the tokenizer becomes the codec OUT/codec")
    import_.add_argument("--codec", help="codec directory, or bytes, where the folder has no tokenizer")
    import_.add_argument(
        "--eod",
        type=options.whole(),
        metavar="ID",
        help="id of end-of-document, put before each row (default: its eos_token_id)",
    )
    import_.add_argument(
        "--seq_len", type=options.whole(1), help="tokens in a row (default: what the model reads, at most 2048)"
    )

    export = verb(
        "export",
        huggingface.export,
        "a run as a Hugging Face checkpoint, where one of its architectures has this shape",
        "compressed-lm export runs/pythia-half --out pythia-half",
    )
    export.add_argument("run", help="folder of a training run, packed or not")
    export.add_argument("--out", required=True, help="new folder, for AutoModelForCausalLM.from_pretrained")
    export.add_argument(
        "--codec", help="the run's codec, to write its tokenizer too (default: RUN/codec if it is there)"
    )
    export.add_argument(
        "--file_gb",
        type=options.real(low=1e-9, high=1e6),
        default=5.0,
        help="most gigabytes of a file of tensors (default %(default)s)",
    )
