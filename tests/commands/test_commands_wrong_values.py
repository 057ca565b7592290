"""Wrong values of every option and argument of every command end in one message each and status 2.

Options are read from the parsers. Wrong numbers, choices and paths (`commands.paths`) follow from their types; wrong
texts are listed here. A new option without a type must be added to these lists.
"""

import argparse
import dataclasses
import json
import re
import types

import jax
import numpy as np
import pytest

from compressed_lm import cli, codecs, weights
from compressed_lm.commands import commands, options, paths
from compressed_lm.cramming import CramConfig, CrammedText, FrozenModel
from compressed_lm.models import Transformer, TransformerConfig, huggingface
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import write_tensors
from compressed_lm.post_training import entropy_code, quantize
from compressed_lm.training import TrainConfig, load_run

MODEL = TransformerConfig(
    vocab_size=264, d_model=16, n_layers=1, n_heads=2, d_head=8, d_ff=32, position="rotary", activation="silu"
)
FORMATS = ("no_format", "int(b=99)", "int(b=x)", "sparse(s=2)+int(b=4)", "int(", "")
SETTINGS = (
    *("train.batch_size=0", "train.batch_size=4.5", "train.learning_rate=fast", "train.learning_rate=nan"),
    *("train.learning_rate=inf", "train.learning_rate=-1", "train.seed=abc", "train.seed=-1", "train.keep=two"),
    *(f"train.steps={10**30}", "train.steps=-5", "train.optimizer=adam", "train.schedule=linear"),
    *("train.steps=%undefined", "m3/train.steps=7", "train.stepz=1", "trian.steps=1", "nonsense", "=", ""),
)
MODEL_SETTINGS = ("model.gated_mlp=maybe", "model.tie_embeddings=2", "model.dtype=float16", "model.n_layers=1000000000")
TEXTS = {
    ("build-codec", "codec"): ("no_codec", "gzip(v=5000)", "static_ac(v=300)", "bpe(v=0)", "gzip(v=x)", "gzip("),
    ("compile", "align"): ("no_alignment",),
    ("compile", "fill"): ("no_fill",),
    ("compress", "split"): ("no_split",),
    ("evaluate", "split"): ("validation",),  # of a corpus, and a store is given
    ("compress", "ray_address"): ("auto", ""),
    ("compress", "beam_options"): ("--runner=DirectRunner", "'"),
    ("train", "tpu"): ("no_tpu", "v99:2x2", ""),
    ("sweep", "tokens"): ("few", "-5", "0", "nan tokens"),
    ("sweep", "codec"): ("no_codec", "gzip(v=5000)"),
    ("pack", "step"): ("x", "-1", "0", "nan", "infstd", ""),
    ("pack", "coder"): ("no_coder", ""),
    ("fit", "law"): ("no_law", ""),
    ("fit", "column"): ("n_params", "n_params=no_such_column", "no_such_name=n_params"),
    ("fit", "let"): ("nonsense", "x = ==", "x = no_such_column + 1"),
    ("fit", "where"): ("no_such_column > 1", "=="),
    ("fit", "fix"): ("alpha", "no_such_parameter=1", "alpha=x", "alpha=nan"),
    ("fit", "reference"): ("no_such_format",),
    "set": SETTINGS,
    "size": ("no_size", "", "25"),
    "importance": ("no_importance", ""),
    "method": ("no_method", "projected(w_a=7)", ""),
    "schedule": ("no_schedule", ""),
    "recipe": ("no_recipe", ""),
    "init": ("no_init", ""),
    "projection": ("no_projection", ""),
    "format": FORMATS,
    "others": FORMATS,
    "formats": FORMATS,
    "trained_formats": FORMATS,
}
"""Wrong texts of an option, by command and name or by name."""

FREE = {"prompt", "system", "launch", "wandb"}
"""Options that take any text."""

ACCEPTED = {
    ("encode", "input", "/dev/null"),  # an empty file is encoded
    ("verify", "paths", "/dev/null"),
    ("demo", "gin", ""),
}
CODEC = codecs.Bytes()
PARSERS = {name: command.parser() for name, command in commands().items()}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Returns a valid value of every required argument, by command and name or by name."""
    folder = tmp_path_factory.mktemp("given")
    texts = "".join(json.dumps({"text": f"text {i} " * 40}) + "\n" for i in range(12))
    (folder / "text.jsonl").write_text(texts)
    (folder / "text.txt").write_text("some text")
    (folder / "empty").mkdir()
    rows = [f"{n},{d},{400 * n**-0.34 + 410 * d**-0.28 + 1.7}" for n in (1e6, 4e6, 1.6e7) for d in (1e8, 1e9, 1e10)]
    (folder / "runs.csv").write_text("\n".join(["n_params,tokens,loss", *rows]))
    codecs.save(CODEC, folder / "codec")
    shapes = jax.eval_shape(Transformer(MODEL).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    draw = np.random.default_rng(0)
    params = {k: draw.normal(size=x.shape).astype(np.float32) for k, x in by_name(shapes["params"]).items()}
    data = dict(codec_spec=CODEC.spec, codec_fingerprint=CODEC.fingerprint, store_fingerprint="", eod_id=256)
    about = dict(format="dense", others="dense", bits_per_weight=32.0, next_index=0, loss_nats_per_token=None)
    record = dict(train=dataclasses.asdict(TrainConfig(steps=1)), model=dataclasses.asdict(MODEL), data=data)
    record |= {"packed": about}
    quantize.write(folder / "run", record, {k: weights.pack(x, "dense", axis=-1) for k, x in params.items()})
    entropy_code.pack_run(folder / "run", step="0.25std", out=folder / "run.clb")
    frozen = FrozenModel.from_run(load_run(folder / "run", codec=CODEC))
    numbers = types.SimpleNamespace(numbers=np.zeros((1, MODEL.d_model), np.float32))
    CrammedText.of(frozen, numbers, CramConfig(), np.zeros(3, np.int32)).save(folder / "text.clt")
    (folder / "checkpoint").mkdir()
    shapes_by_name = {name: x.shape for name, x in params.items()}
    made = huggingface.tensors_of(shapes_by_name, params.__getitem__, MODEL)
    write_tensors(folder / "checkpoint", {name: make() for name, _, make in made}, max_bytes=10**9)
    shape = huggingface.config_of(MODEL, max_length=64, eod_id=256)
    (folder / "checkpoint" / "config.json").write_text(json.dumps(shape))
    assert cli.main(["compress", f"--corpus=json:{folder}/text.jsonl", "--codec=bytes", f"--out={folder}/store"]) == 0
    (folder / "coded").write_bytes(b"")
    assert cli.main(["encode", f"{folder}/text.txt", f"{folder}/coded", "--codec=bytes"]) == 0
    store, run = str(folder / "store"), str(folder / "run")
    return dict(
        input=str(folder / "text.txt"),
        output=str(folder / "new_file"),
        paths=str(folder / "text.txt"),
        text=str(folder / "text.txt"),
        file=str(folder / "text.clt"),
        runs=str(folder / "runs.csv"),
        source=str(folder / "checkpoint"),
        run=run,
        store=store,
        model=run,
        out=str(folder / "new"),
        codec="bytes",
        corpus=f"json:{folder}/text.jsonl",
        m1="pretrained",
        train_store=store,
        format="int(b=4)",
        step="0.25std",
        keep="0.5",
        lengths="8",
        **{"cram-study sources": "unseen"},
        **{"decode input": str(folder / "coded"), "unpack file": str(folder / "run.clb"), "build-codec codec": "bytes"},
        **{
            "demo devices": "8",
            "sweep tokens": "1000",
            "sweep corpus": f"json:{folder}/text.jsonl",
            "train size": "nano",
            "train store": store,
            "report folder": str(folder / "empty"),
            "evaluate codec": "bytes",
            "evaluate store": store,
            "evaluate train_store": store,
            "generate codec": "bytes",
            "train out": str(folder / "new"),
        },
        **{f"{command} steps": "1" for command in ("train", "train-m1", "shrink")},
        **{"train-m1 size": "nano", "sweep size": "nano", "cram-study unseen": f"json:{folder}/text.jsonl"},
        root=str(folder),
    )


def wrong_values(command: str, action: argparse.Action, root: str):
    """Yields wrong values of an option or argument."""
    name = action.dest
    if isinstance(action, argparse._StoreTrueAction | argparse.BooleanOptionalAction):
        yield "x"
    elif action.choices:
        yield from ("no_such_choice", "")
    elif isinstance(action.type, options.Number):
        limits, whole = action.type.limits, action.type.kind is int
        yield from ("x", "", "nan", "inf", "1e999", "None", str(10**30) if whole else "-inf")
        yield from (("4.5", "1e3", "0x10") if whole else ())
        low = limits.above if limits.low is None else limits.low - (1 if whole else 1e-3)
        high = limits.below if limits.high is None else limits.high + 1
        yield from (f"{bound:.17g}" if not whole else str(bound) for bound in (low, high) if bound is not None)
    elif action.type in (options.mesh_shape, options.first_and_last):
        yield from ("x", "", "1", "1,x", "1,2,3,4", "0,-1,1", "1.5,2,2")
    elif (command, name) in TEXTS or name in TEXTS and name not in FREE:
        yield from TEXTS.get((command, name)) or TEXTS[name]
        if (command, name) == ("train", "set"):
            yield from MODEL_SETTINGS
    elif name in PARSERS[command].paths:
        kind = PARSERS[command].paths[name][1]
        yield from ("s3://bucket/x", "hdfs://x", f"{root}/text.txt/x", "")
        if kind == paths.CORPUS:
            yield from (f"json:{root}/empty/*", "no_such_source", f"json:{root}/empty", "json:s3://bucket/x", "json:")
        elif kind in (paths.READ, paths.RUN):
            yield from (f"{root}/missing", f"{root}/empty", "/dev/null", "gs://")
        elif kind == paths.FILE:
            yield from ("/proc/nowhere/x", f"{root}/empty")
        else:
            yield from ("/proc/nowhere", f"{root}/text.txt", "/dev/null")
    else:
        assert name in FREE, f"{command} has a new argument {name}: say in TEXTS which texts are wrong for it"


def arguments_of(parser):
    return [a for a in parser._actions if not isinstance(a, argparse._HelpAction) and a.help != argparse.SUPPRESS]


def line(command: str, parser, given: dict, wrong: argparse.Action | None = None, value: str = "") -> list[str]:
    """Returns a command line whose arguments are valid, except one."""
    argv, positional = [], []
    for action in arguments_of(parser):
        valid = given.get(f"{command} {action.dest}", given.get(action.dest) if action.required else None)
        if action is not wrong and valid is None:
            continue
        word = value if action is wrong else valid
        if not action.option_strings:
            positional.append(word)
        else:
            argv.append(f"{action.option_strings[0]}={word}")
    return [command, *argv, "--", *positional] if positional else [command, *argv]


@pytest.mark.thinned(6, "runs every command with every wrong value")
@pytest.mark.parametrize("command", PARSERS)
def test_wrong_values_end_in_one_message(command, given, capsys, monkeypatch):
    """Each wrong value of each option ends in status 2 and one paragraph that names the value."""
    monkeypatch.chdir(given["root"])
    parser, n = PARSERS[command], 0
    for action in arguments_of(parser):
        for value in wrong_values(command, action, given["root"]):
            if (command, action.dest, value) in ACCEPTED:
                continue
            argv = line(command, parser, given, action, value)
            try:
                status = cli.main(argv)
            except SystemExit as stopped:  # argparse
                status = stopped.code
            said = capsys.readouterr().err
            errors = [text for text in said.splitlines() if "error: " in text]
            assert (status, len(errors)) == (2, 1), (argv, status, said)
            assert said.rstrip().endswith(errors[0]), (argv, said)  # one paragraph, and nothing after it
            assert "Traceback" not in said, (argv, said)
            parts = [part[:40] for part in re.findall(r"[\w./%-]+", value)]
            assert any(part in errors[0] for part in [*parts, repr(value), action.dest]), (argv, said)
            n += 1
    assert n >= 8 or command == "doctor"  # which takes no arguments


def test_every_command_has_many_wrong_values(given):
    """There are at least 1,600 wrong values, and some for every argument that has a type."""
    counted = {
        command: sum(len(list(wrong_values(command, action, given["root"]))) for action in arguments_of(parser))
        for command, parser in PARSERS.items()
    }
    assert sum(counted.values()) >= 1600, counted
