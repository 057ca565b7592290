"""`compressed-lm VERB`: parses, binds gin, calls one function."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from compressed_lm.commands import (
    cramming_lines,
    failures,
    interrupts,
    options,
    paths,
    run_lines,
    runs,
    sweep_lines,
    text,
)
from compressed_lm.io import locks

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CODEC_DIR_HELP = (
    "codec directory, dictionary file, or a codec that comes with the package (pieces16-en, eiw16-en, eiw16-word-en)"
)
CODEC_HELP = (
    "bytes, pieces(v=65536), sentencepiece(v=4096), bpe(v=4096), gzip(v=256), static_ac(v=256), ac(v=256), "
    "eiw(b=16,v=65536,align=word)"
)


INTERRUPTED = 130
"""Exit status after Ctrl-C, as of every program of a shell."""

WRITING = (
    *("demo", "train-m1", "build-codec", "compile", "compress", "train", "sweep", "quantize", "pack", "unpack"),
    *("reshape", "shrink", "import", "export", "cram", "cram-study"),
)
"""Verbs of which one at a time writes to --out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit status: 0, 2 after an error that the message explains, 130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs the traceback of what it raises
    notices = logging.getLogger("compressed_lm")  # such as that loops are being compiled
    notices.setLevel(logging.INFO)
    notices.handlers = [logging.StreamHandler()]  # to the standard error of this call
    status = 2
    interrupts.catch_all()
    try:
        paths.check(arguments)
        locks.WAIT.set(getattr(arguments, "wait", False))
        if getattr(arguments, "devices", None):
            from compressed_lm.training import use_cpu_devices

            use_cpu_devices(arguments.devices)
        return arguments.function(arguments) or 0
    except BrokenPipeError:  # whoever read the output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would say so once more at its end
    except KeyboardInterrupt:
        print(
            "Interrupted. Finished shards, checkpoints and files are kept: the same command goes on.", file=sys.stderr
        )
        status = INTERRUPTED
    except Exception as error:
        message = failures.explain(error)
        if message is None:
            error.add_note(failures.REPORT)
            raise
        print(f"error: {message}", file=sys.stderr)
    if "compressed_lm.distributed.processes" in sys.modules:
        sys.modules["compressed_lm.distributed.processes"].leave(status)  # or a run's other processes would wait for it
    return status


def program() -> None:
    """The process of a command: `main`, and its status."""
    status = main()
    if status == INTERRUPTED:  # what was interrupted, such as a compilation, may not survive an orderly end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compressed-lm",
        description="Train language models over compressed text, and compare them in bits per byte. "
        "`compressed-lm VERB --help` explains a verb.",
    )
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function: Callable, summary: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(function=function, verb=name)
        if name in WRITING:
            sub.add_argument(
                "--wait", action="store_true", help="if another command writes to --out, wait until it has ended"
            )
        return sub

    verb(
        "doctor",
        runs.doctor,
        "print versions, devices and known problems of this installation",
        "compressed-lm doctor",
    )

    demo = verb(
        "demo", runs.demo, "the whole job on real text, from corpus to report", "compressed-lm demo --out runs/demo"
    )
    options.corpus(demo, default=None)
    demo.add_argument(
        "--out",
        default="runs/demo",
        help="folder of the run; resumes if interrupted (default %(default)s)",
    )
    demo.add_argument(
        "--m1", choices=("train", "pretrained"), help="train M1, or take the one that ships (default: train)"
    )
    options.gin(demo, default=["runs/demo.gin"])
    options.devices(demo, default=2)

    train_m1 = verb(
        "train-m1",
        runs.train_m1,
        "train the byte model that drives the coder, and turn it into exact integers",
        "compressed-lm train-m1 --out runs/m1 --steps 2000",
    )
    options.corpus(train_m1)
    train_m1.add_argument("--out", required=True, help="folder of the run; m1.npz in it is the exact model")
    train_m1.add_argument("--max_bytes", type=options.count_of_bytes(), help="most bytes of text to use")
    options.training(train_m1)

    build = verb(
        "build-codec",
        text.build_codec,
        "build a codec and save it as a directory",
        "compressed-lm build-codec 'eiw(b=16,v=65536)' --m1 runs/m1 --out codecs/eiw16",
    )
    build.add_argument("codec", help=CODEC_HELP)
    build.add_argument("--out", required=True, help="directory to write")
    build.add_argument("--m1", help="folder of `train-m1`, or pretrained, for ac and eiw")
    options.corpus(build)
    build.add_argument(
        "--max_bytes",
        type=options.count_of_bytes(),
        default=8_000_000,
        help="most bytes of text to learn from (default %(default)s)",
    )

    compile_ = verb(
        "compile",
        text.compile_,
        "compile windows of up to 16 bits into one dictionary file, which needs neither M1 nor JAX",
        "compressed-lm compile --m1 runs/m1 --b 16 --out eiw16.clmd",
    )
    compile_.add_argument("--m1", required=True, help="folder of `train-m1`, or pretrained (only with --rounds 0)")
    compile_.add_argument("--b", type=options.whole(8, 16), default=16, help="bits of a window (default %(default)s)")
    compile_.add_argument("--v", type=options.whole(2, 65536), help="vocabulary (default: one token a window, 2**b)")
    compile_.add_argument("--align", default="none", help="none, or word: no window runs over the start of a word")
    compile_.add_argument(
        "--fill", default="node", help="node (windows of equal information) or best (the 2**b likeliest strings)"
    )
    compile_.add_argument(
        "--rounds",
        type=options.whole(),
        default=0,
        help="train M1 on from the starts of its own windows and compile again, so often (default %(default)s)",
    )
    compile_.add_argument("--out", required=True, help="file to write; finished rounds are kept in OUT.rounds")

    encode = verb("encode", text.encode, "encode a file", "compressed-lm encode book.txt book.clm --codec codecs/eiw16")
    decode = verb(
        "decode",
        text.decode,
        "restore an encoded file, or say exactly why not",
        "compressed-lm decode book.clm book.txt --codec codecs/eiw16",
    )
    for sub in (encode, decode):
        sub.add_argument("input", help="file to read, or - for the standard input")
        sub.add_argument("output", help="file to write, or - for the standard output")
        sub.add_argument("--codec", required=True, help=CODEC_DIR_HELP)

    verify = verb(
        "verify",
        text.verify,
        "encode and decode files and compare, or check a token store's shards",
        "compressed-lm verify book.txt --codec codecs/eiw16",
    )
    verify.add_argument("paths", nargs="+", help="files to take through the codec and back (- for stdin), or stores")
    verify.add_argument("--codec", help="codec directory, for files")

    compress = verb(
        "compress",
        text.compress,
        "turn documents into a token store, shard by shard, resumable",
        "compressed-lm compress --corpus 'json:c4/*.gz' --codec codecs/eiw16 --out stores/c4",
    )
    options.corpus(compress)
    compress.add_argument("--split", default="train", help="split of the corpus (default %(default)s)")
    compress.add_argument("--codec", required=True, help="codec directory, or bytes")
    compress.add_argument("--out", required=True, help="folder of the store; started again, it keeps finished shards")
    compress.add_argument(
        "--n_shards", type=options.whole(1, 100_000), default=4, help="shards of the store (default %(default)s)"
    )
    compress.add_argument(
        "--max_bytes", type=options.count_of_bytes(), help="take documents until there are this many bytes"
    )
    compress.add_argument(
        "--process_index",
        type=options.whole(),
        default=0,
        help="this process, of --process_count that share the shards",
    )
    compress.add_argument(
        "--process_count",
        type=options.whole(1),
        default=1,
        help="processes that work on the same store (default %(default)s)",
    )
    options.devices(compress)

    inspect = verb(
        "inspect",
        text.inspect,
        "show a token store: manifest, counts, original beside decoded text",
        "compressed-lm inspect stores/c4 --codec codecs/eiw16",
    )
    inspect.add_argument("store", help="folder of a token store")
    inspect.add_argument("--codec", help="codec directory, to decode documents")
    inspect.add_argument("--corpus", help="the corpus it was made from, to show the originals")
    inspect.add_argument("--validation", help=argparse.SUPPRESS)
    inspect.add_argument("--documents", type=options.whole(), default=3, help="documents to show (default %(default)s)")

    train = verb(
        "train",
        runs.train,
        "train a model on a token store",
        "compressed-lm train --tokens stores/c4 --out runs/eiw --size micro --steps 1000",
    )
    train.add_argument("--tokens", help="folder of a token store")
    train.add_argument("--out", help="folder of the run, also gs://...; resumes if interrupted, bit for bit")
    train.add_argument("--start", metavar="RUN", help="start from the parameters of this run, not from random ones")
    train.add_argument("--validation_tokens", help="token store of validation documents, for a learning curve")
    train.add_argument(
        "--dry_run",
        action="store_true",
        help="compile the step and print parameters, FLOPs, memory, traffic between devices and estimated times, "
        "without reading data",
    )
    train.add_argument(
        "--tpu", metavar="NAME", help="dry run for a TPU that need not be there, such as v5e:4x4 (pip: extra [tpu])"
    )
    train.add_argument(
        "--mesh",
        type=options.mesh,
        help="sizes of the axes data,fsdp,tensor, such as 4,2,1 (default: all devices on data)",
    )
    train.add_argument(
        "--distributed",
        choices=("auto", "off", "on"),
        default="auto",
        help="join the other processes of a pod or cluster: where one is found, never, or necessarily (default auto)",
    )
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events to OUT/tensorboard")
    train.add_argument("--wandb", metavar="PROJECT", help="also send the numbers to Weights & Biases")
    train.add_argument(
        "--profile",
        type=options.first_and_last,
        metavar="FIRST,LAST",
        help="write a trace of these steps to OUT/profile",
    )
    train.add_argument(
        "--hang_seconds",
        type=options.real(low=0),
        default=600,
        help="report a step that takes longer, and the processes that are behind; 0 for never (default %(default)s)",
    )
    train.add_argument(
        "--debug",
        action="store_true",
        help="compile nothing, run layer by layer on one device, stop where the first NaN arises",
    )
    options.training(train)

    sweep_lines.add(verb, CODEC_HELP)

    evaluate = verb(
        "evaluate",
        runs.evaluate,
        "bits per byte and FLOPs per byte of a run, one row of the run table",
        "compressed-lm evaluate runs/eiw --codec codecs/eiw16 --tokens stores/val --train_tokens stores/c4",
    )
    evaluate.add_argument("run", help="folder of a training run")
    evaluate.add_argument("--codec", required=True, help="codec directory, or bytes")
    evaluate.add_argument("--tokens", required=True, help="token store of validation documents")
    evaluate.add_argument("--train_tokens", required=True, help="token store that the run was trained on")
    evaluate.add_argument("--table", help="run table (JSON lines) to append the row to; - prints it")

    run_lines.add(verb)
    cramming_lines.add(verb)

    generate = verb(
        "generate",
        runs.generate,
        "sample text from a run, decoding as it goes",
        "compressed-lm generate runs/eiw --codec codecs/eiw16 --prompt 'The array'",
    )
    generate.add_argument("run", help="folder of a training run")
    generate.add_argument("--codec", required=True, help="codec directory, or bytes")
    generate.add_argument("--prompt", default="", help="text to continue")
    generate.add_argument(
        "--n_tokens", type=options.whole(), default=200, help="most tokens to sample (default %(default)s)"
    )
    generate.add_argument(
        "--temperature",
        type=options.real(low=0),
        default=0.8,
        help="0 takes the likeliest token (default %(default)s)",
    )
    generate.add_argument(
        "--top_k",
        type=options.whole(),
        default=0,
        help="sample among this many tokens; 0 for all (default %(default)s)",
    )
    generate.add_argument("--seed", type=options.whole(), default=0, help="of the samples (default %(default)s)")

    fit = verb(
        "fit",
        runs.fit,
        "fit a scaling law to a table of runs, with intervals and a report",
        "compressed-lm fit runs.csv --law tanh --report out.html",
    )
    fit.add_argument("runs", nargs="+", help="CSV, JSON or JSON lines, a row per run; - for the standard input")
    fit.add_argument(
        "--law",
        default="chinchilla",
        help="chinchilla, decoupled (a capacity for each format), tanh, logistic, logistic10, kumar, frantar2023, "
        "frantar2025 (default %(default)s)",
    )
    fit.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="the table's name of n_params, tokens, loss, format, gmse or bits, where it differs "
        "(repeatable; commas for a product); run tables of this package need loss, format and gmse not named",
    )
    fit.add_argument(
        "--let",
        action="append",
        default=[],
        metavar="COLUMN=EXPR",
        help="add a column by an expression of pandas (repeatable)",
    )
    fit.add_argument("--where", help="fit the rows for which this expression of pandas is true")
    fit.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="hold a parameter, or free a held one: L=free (repeatable)",
    )
    fit.add_argument("--shared", action="store_true", help="the factors of a product share their parameters")
    fit.add_argument("--reference", help="the format whose capacity is 1 (default dense)")
    fit.add_argument(
        "--delta",
        type=options.real(above=0),
        default=1e-3,
        help="threshold of the Huber loss (default %(default)s)",
    )
    fit.add_argument(
        "--loss_space", choices=("log", "raw"), default="log", help="what residuals are of (default %(default)s)"
    )
    fit.add_argument(
        "--bootstrap",
        type=options.whole(),
        default=1000,
        help="resampled tables for intervals, 0 for none (default %(default)s)",
    )
    fit.add_argument("--seed", type=options.whole(), default=0, help="of the bootstrap (default %(default)s)")
    fit.add_argument("--report", help="HTML file to write, or - for the standard output")

    report = verb(
        "report",
        runs.report,
        "write report.html and report.md from a folder's run table",
        "compressed-lm report runs/demo",
    )
    report.add_argument("run_dir", help="folder with runs.jsonl, such as runs/demo")
    return parser
