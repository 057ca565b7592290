"""Command `train-m1`: trains the byte model of `ac` and `eiw`, and converts it to exact integers."""

import math

from compressed_lm import io
from compressed_lm.commands import options, paths
from compressed_lm.commands.command import Command
from compressed_lm.commands.common import GIN, configure
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def add_arguments(parser):
    options.add_corpus(parser)
    parser.add_path(
        "--out", kind=paths.FOLDER, required=True, help="folder of the run; m1.npz in it is the exact model"
    )
    parser.add_argument("--max_bytes", type=options.count_of_bytes(), help="most bytes of text to use")
    options.add_training(parser)


def run(arguments):
    from compressed_lm import codecs, configuration
    from compressed_lm.data import job
    from compressed_lm.data.sources import open_corpus
    from compressed_lm.data.store import MANIFEST
    from compressed_lm.exact import check_exactable
    from compressed_lm.models import model_vocab_size
    from compressed_lm.pipelines.m1 import M1_FILE, export_m1
    from compressed_lm.training import run_dir, train
    from compressed_lm.training.checkpoints import folder

    resolved = configure(arguments)
    out = folder(io.local_path(arguments.out, "--out"))
    model, config = configuration.model(model_vocab_size(256)), configuration.train()
    check_exactable(model, config.seq_len)  # before hours of training
    with locks.held(out):
        if run_dir.read_record(out) and not (out / "tokens" / MANIFEST).exists():
            raise InputError(f"{out} contains a run that `train-m1` did not write. Give another folder for --out.")
        store = job.compress(
            open_corpus(arguments.corpus, validation=arguments.validation),
            "train",
            codecs.Bytes(),
            out / "tokens",
            max_bytes=arguments.max_bytes,
        )
        result = train(config, model, store, out=out, accepted=lambda: io.write_atomic(out / GIN, resolved))
        m1 = export_m1(out, store)
    print(
        f"M1 is {out / M1_FILE}, hash {m1.hash[:12]}; last training loss "
        f"{result.loss_nats_per_token / math.log(2):.3f} bits per byte."
    )


COMMAND = Command(
    "train-m1",
    "train the byte model that drives the coder, and convert it to exact integers",
    "compressed-lm train-m1 --out runs/m1 --steps 2000",
    add_arguments,
    run,
    writes=True,
)
