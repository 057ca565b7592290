"""Paths on the command line: schemes are refused first, pipes are streams, refused commands change nothing."""

import io as stdlib_io
import json
import os
import sys
import threading
import types

import pytest

from compressed_lm import codecs, configuration, io, scaling, weights
from compressed_lm.cli import main
from compressed_lm.commands import commands, paths
from compressed_lm.cramming import CrammedText
from compressed_lm.data import job, sources
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.io import folders, object_stores
from compressed_lm.pipelines import build_codec, demo, refit
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.pipelines.sweep import Sweep
from compressed_lm.post_training import entropy_code, huggingface
from compressed_lm.training import checkpoints, load_run

NO_PATHS = {
    *("align", "aspect", "b", "b1", "b2", "batch", "batch_size", "beam_options", "beyond", "bootstrap"),
    *("calibration", "chat", "coder", "column", "crop", "debug", "delta", "devices", "dimensions"),
    *("distributed", "documents", "dry_run", "dtype", "engine", "eod", "eps", "file_gb", "fill", "final_rate"),
    *("first_weight", "fix", "format", "formats", "grow", "hang_seconds", "help", "importance", "init"),
    *("init_scale", "k", "keep", "launch", "law", "learning_rate", "lengths", "let", "loss_space", "margin"),
    *("max_bytes", "mesh", "method", "missing_bytes", "multiple", "n_shards", "n_tokens", "others", "patience"),
    *("pooled", "process_count", "process_index", "profile", "projection", "projection_seed", "prompt"),
    *("ray_address", "recipe", "reference", "restarts", "rounds", "rows_per_device", "save_every"),
    *("scale_factor", "schedule", "seed", "seq_len", "set", "shape_factor", "shard_bytes", "shared", "size"),
    *("slots", "sources", "special", "split", "step", "steps", "system", "temperature", "tensorboard", "texts"),
    *("top_k", "tpu", "trained_formats", "v", "validation_bytes", "wait", "wandb", "warmup_steps"),
    *("weight_decay", "where", "words", "workers"),
}

PARSERS = {name: command.parser() for name, command in commands().items()}


def given(action, value):
    return [f"{action.option_strings[-1]}={value}"] if action.option_strings else [value]


def command_line(name, dest, value):
    """Returns a command with this value of one argument, and plausible values of all other required ones."""
    argv = [name]
    for action in PARSERS[name]._actions:
        if action.dest == dest:
            argv += given(action, value)
        elif action.required:
            argv += given(action, action.choices[0] if action.choices else "1")
    return argv


CASES = [
    (name, action) for name, parser in PARSERS.items() for action in parser._actions if action.dest in parser.paths
]


def test_every_argument_is_known_to_be_a_path_or_none():
    """Every option is listed as a path or as no path, so that a new one cannot miss the path check."""
    others = {
        (name, action.dest)
        for name, parser in PARSERS.items()
        for action in parser._actions
        if action.dest not in parser.paths
    }
    assert {dest for _, dest in others} - NO_PATHS == {"codec", "m1", "tokens"}
    assert others >= {("build-codec", "codec"), ("demo", "m1"), ("sweep", "tokens")}  # a spec, a choice, lengths
    assert len(CASES) > 80


@pytest.mark.parametrize(("name", "action"), CASES, ids=[f"{n}-{a.dest}" for n, a in CASES])
def test_schemes_are_refused_in_every_argument_of_every_command(name, action, tmp_path, monkeypatch, capsys):
    """An unsupported scheme ends in status 2 and one paragraph with the argument, before any work."""
    monkeypatch.chdir(tmp_path)
    what = action.option_strings[-1] if action.option_strings else action.dest
    label, kind = PARSERS[name].paths[action.dest]
    assert label == what
    corpus = kind == paths.CORPUS
    values = ["hdfs://b/x", "GS://b/x", "file:///x"]
    if corpus:
        values = ["json:hdfs://b/x", "text:S3://b/x", "mix:2*json:a,json:hdfs://b/x", "https://b/x"]
    for value in values:
        assert main(command_line(name, action.dest, value)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {'In ' if corpus else ''}{what}"), error
        assert value.rpartition("json:")[2].rpartition("text:")[2] + " was given" in error
        assert "only local paths, gs:// and s3:// are supported" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_library_functions_refuse_schemes(tmp_path, monkeypatch):
    """Library functions refuse schemes too, so that no notebook writes into a folder named `hdfs:`."""
    monkeypatch.chdir(tmp_path)
    url, codec = "hdfs://b/x", codecs.Bytes()
    row = json.loads((codecs.registry.PRETRAINED / "m1-en" / "row.json").read_text())
    calls = [
        lambda: TokenStore.open(url),
        lambda: job.compress(sources.open_corpus("installed_docs"), "train", codec, url),
        *(lambda spec=spec: sources.open_corpus(spec) for spec in (f"json:{url}", f"text:{url}", f"store:{url}", url)),
        *(lambda spec=spec: sources.open_corpus(spec) for spec in (f"mix:json:{url}", f"tfds:{url}", f"seqio:{url}")),
        lambda: codecs.load(url),
        lambda: codecs.save(codec, url),
        lambda: codecs.save_dictionary(codecs.load("eiw16-en"), url),
        lambda: load_run(url),
        lambda: m1_model.load_m1(url),
        lambda: configuration.find(url),
        lambda: folders.check_new(url, "The folder"),
        lambda: entropy_code.unpack_run(url, out="out"),
        lambda: entropy_code.pack_run("run", step="0.1", out=url),
        lambda: huggingface.import_run(url, out="out"),
        lambda: codecs.read_tokenizer(url),
        lambda: weights.load_packed(url),
        lambda: CrammedText.load(url),
        lambda: scaling.fit_tables([url]),
        lambda: scaling.load_runs(url),
        lambda: scaling.append_row(url, row),
        lambda: Sweep(url, [], {}, corpus=None),
        lambda: demo.run(url),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="only local paths"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_bucket_needs_its_package(monkeypatch):
    """Paths in object stores name the package to install if it is missing."""
    assert str(checkpoints.folder("gs://b/run")) == "gs://b/run"
    monkeypatch.setattr(object_stores.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package gcsfs.* pip install 'compressed_lm\[gcs\]'"):
        load_run("gs://b/run")
    with pytest.raises(InputError, match=r"^--out s3://b/x .* needs the package s3fs.* 'compressed_lm\[s3\]'"):
        io.any_path("s3://b/x", "--out")


@pytest.fixture
def stdin(monkeypatch):
    """Sets the content of standard input."""

    def set_(content):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stdlib_io.BytesIO(content)))

    return set_


TEXT = b"\xff\x00 a text"


def test_minus_is_stdin_and_stdout(tmp_path, monkeypatch, stdin, capsysbinary):
    """encode and decode work in a pipeline, with messages on stderr; verify and uncram read stdin."""
    monkeypatch.chdir(tmp_path)
    stdin(TEXT)
    assert main(["encode", "-", "-", "--codec=bytes"]) == 0
    coded, said = capsysbinary.readouterr()
    assert coded.startswith(b"\x89CLM") and b"the standard input: 9 bytes -> -" in said
    stdin(coded)
    assert main(["decode", "-", "-", "--codec=bytes"]) == 0
    assert capsysbinary.readouterr()[0] == TEXT
    stdin(TEXT)
    assert main(["verify", "-", "--codec=bytes"]) == 0
    assert b"the standard input: 9 bytes" in capsysbinary.readouterr()[0]
    stdin(b"no such file")
    for argv in (["uncram", "-", "--model=run"], ["unpack", "-", "--out=out"]):
        assert main(argv) == 2 and b"the standard input is not a file of" in capsysbinary.readouterr()[1]
    assert not list(tmp_path.iterdir())


def test_settings_are_read_from_a_pipe(capsys):
    """A gin file may be a pipe, as in the shell syntax `<(...)`."""
    reader, writer = os.pipe()
    os.write(writer, b"train.steps = 7")
    os.close(writer)
    assert "train.steps = 7" in configuration.load([f"/dev/fd/{reader}"])
    os.close(reader)
    assert configuration.find("-").name == "stdin"


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_fit_reads_and_writes_streams(form, tmp_path, stdin, capsysbinary):
    """fit reads tables of all forms from stdin, and writes only the report to stdout."""
    rows = [
        {"n_params": n, "tokens": d, "loss": 400 * n**-0.34 + 410 * d**-0.28 + 1.7}
        for n in (1e6, 4e6, 16e6, 64e6)
        for d in (1e8, 1e9, 1e10)
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    texts = {"csv": "\n".join(lines), "json": json.dumps(rows), "jsonl": "\n".join(map(json.dumps, rows))}
    stdin(texts[form].encode())
    report = ["--report=-"] if form == "csv" else []
    assert main(["fit", "-", "--bootstrap=0", *report]) == 0
    out, said = capsysbinary.readouterr()
    if report:
        assert out.startswith(b"<!doctype html>") and out.endswith(b"</html>\n") and b"alpha" in said
    else:
        assert b"alpha" in out


def test_evaluations_are_appended_to_streams(tmp_path, capfd):
    """evaluate writes the row of the run table to a pipe or to stdout as one line."""
    row = json.loads((codecs.registry.PRETRAINED / "m1-en" / "row.json").read_text())
    reader, writer = os.pipe()
    scaling.append_row(f"/dev/fd/{writer}", row)
    os.close(writer)
    with open(reader, "rb") as file:
        assert json.loads(file.read())["run"] == row["run"]
    scaling.append_row("-", row)
    assert json.loads(capfd.readouterr().out)["run"] == row["run"]


def test_commands_write_into_pipes_and_devices(tmp_path, capsysbinary):
    """decode writes to a named pipe, a descriptor and /dev/null without replacing them; a link stays a link."""
    (tmp_path / "in").write_bytes(TEXT)
    assert main(["encode", f"{tmp_path}/in", f"{tmp_path}/coded", "--codec=bytes"]) == 0
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "null").symlink_to(os.devnull)
    for output in ("pipe", "link", "null"):
        assert main(["decode", f"{tmp_path}/coded", f"{tmp_path}/{output}", "--codec=bytes"]) == 0
    reader.join(10)
    assert found == [TEXT] == [(tmp_path / "target").read_bytes()]
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink() and (tmp_path / "null").is_char_device()
    assert main(["decode", f"{tmp_path}/coded", str(tmp_path), "--codec=bytes"]) == 2
    assert b"is a folder; give the file to write" in capsysbinary.readouterr()[1]


def test_a_compiled_dictionary_goes_to_stdout(capsysbinary):
    """`compile --out -` writes a file that `codecs.load` reads, and refuses --rounds, which needs a file."""
    compiled = codecs.load("eiw16-en")
    size = codecs.save_dictionary(compiled, "-")
    assert len(capsysbinary.readouterr()[0]) == size
    assert main(["compile", "--m1=pretrained", "--rounds=1", "--out=-"]) == 2
    assert b"--rounds was given, and --out - is not a file" in capsysbinary.readouterr()[1]


def snapshot(folder):
    """Returns names, contents and times of all files in a folder; locks are beside the folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store, a run of two steps, and the command of the run."""
    out = tmp_path_factory.mktemp("trained")
    for name, word in (("store", "some text "), ("other", "other text ")):
        (out / f"{name}.txt").write_text(word * 300)
        corpus = f"--corpus=text:{out}/{name}.txt"
        assert main(["compress", corpus, "--codec=bytes", f"--out={out}/{name}", "--n_shards=1"]) == 0
    tiny = ["model.size=nano", "model.d_model=32", "model.n_heads=1", "train.seq_len=16", "train.batch_size=8"]
    settings = [f"--set={setting}" for setting in tiny]
    command = ["train", f"--store={out}/store", f"--out={out}/run", *settings]
    assert main([*command, "--steps=2"]) == 0
    return out, command


def status(argv):
    """Returns the exit status of a command, also if its parser exits."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code


@pytest.mark.slow("trains models through the command line")
def test_a_refused_training_changes_nothing(trained, tmp_path, monkeypatch, capsys):
    """A refused run changes no byte or time of the finished run in its folder, and creates no folder."""
    out, command = trained
    before, m1 = snapshot(out), ["train-m1", *command[2:], f"--corpus=text:{out}/store.txt"]
    m1 = [argument for argument in m1 if "n_heads" not in argument]
    refused = [
        ([*command, "--steps=3"], "another configuration"),
        ([*command, "--steps=2", "--seed=1"], "another configuration"),
        ([*command, "--steps=2", f"--store={out}/other"], "another token store"),
        ([*command, "--steps=2", "--set=train.batch_size=9"], "expected a multiple"),
        ([*command, "--steps=2", "--set=train.seq_len=100000"], "less than one row"),
        ([*command, "--steps=2", "--mesh=3,1,1"], "mesh"),
        ([*command, "--steps=2", f"--validation_store={out}/run"], "manifest"),
        ([*command, "--steps=2", "--profile=1"], "--profile"),
        ([*command, "--steps=2", "--seed=2", "--tensorboard"], "another configuration"),
        ([*m1, "--steps=2"], "train-m1"),
    ]
    for argv, message in refused:
        assert status(argv) == 2 and message in capsys.readouterr().err, argv
    assert snapshot(out) == before
    monkeypatch.setitem(sys.modules, "wandb", None)
    for argv, message in [*refused[3:8], ([*command, "--steps=2", "--wandb=p", "--tensorboard"], "wandb")]:
        assert status([*argv, f"--out={tmp_path}/new/run"]) == 2 and message in capsys.readouterr().err, argv
    assert not list(tmp_path.iterdir())
    assert main([*command, "--steps=2", "--set=train.log_every=7"]) == 0  # only the record of its settings changes
    assert "train.log_every = 7" in (out / "run" / "config.gin").read_text()


@pytest.mark.slow("trains models through the command line")
def test_a_refused_shrink_changes_nothing(trained, tmp_path, capsys):
    """Neither settings nor selection of a shrunk run are written before it is accepted."""
    out, command = trained
    shrink = ["shrink", f"{out}/run", "--keep=0.5", command[1], "--calibration=4", *command[-2:], "--steps=1"]
    shrink += ["--importance=magnitude", "--method=pruned"]
    for change, message in (("--set=train.seq_len=100000", "less than one row"), ("--mesh=3,1,1", "mesh")):
        assert main([*shrink, f"--out={tmp_path}/small", change]) == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*shrink, f"--out={tmp_path}/small"]) == 0
    assert {"config.gin", "selection.npz"} <= {path.name for path in (tmp_path / "small").iterdir()}
    before = snapshot(tmp_path)
    for change in ("--keep=0.7", "--steps=2", "--method=scratch"):
        assert main([*shrink, f"--out={tmp_path}/small", change]) == 2, change
    assert snapshot(tmp_path) == before


def test_a_refused_demo_changes_nothing(tmp_path, monkeypatch):
    """Settings that differ from those of an existing demo are refused before any work; additions are accepted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "empty.json").touch()
    corpus = [f"demo.{split}=text:{tmp_path}/text.txt" for split in ("corpus", "validation")]
    bad = ("demo.m1=best", "demo.codecs=('bites',)", "demo.corpus=text:no.txt", "demo.curve_sizes=('nan',)")
    for setting in (*bad, "demo.validation=json:empty.json"):
        with pytest.raises(InputError):
            demo.run("out", bindings=[*corpus, setting])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.gin").write_text(configuration.load([demo.GIN], corpus, scopes=("m1", "m2")))
    before = snapshot(tmp_path)
    for setting in ("m2/train.steps=7", "demo.m1=pretrained", "demo.train_bytes=5", "m1/model.size=micro"):
        with pytest.raises(InputError, match=rf"begun with other settings \({setting.partition('=')[0]} .* -> "):
            demo.run("out", bindings=[*corpus, setting])
    assert snapshot(tmp_path) == before
    grown = configuration.load(
        [demo.GIN], [*corpus, "demo.codecs=('bytes',)", "train.log_every=3"], scopes=("m1", "m2")
    )
    demo._refuse_other_settings(tmp_path / "out" / "config.gin", grown)


def test_codecs_of_another_m1_are_not_replaced(tmp_path):
    """demo, sweep and `compile --rounds` never replace a codec with which stores were written."""
    dictionary, other = codecs.load("eiw16-en"), types.SimpleNamespace(hash="0" * 64)
    codecs.save(dictionary, tmp_path / "codec")
    codecs.save_dictionary(dictionary, tmp_path / "codec.clmd")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="holds the codec eiw.* of the M1 .* and the given M1 is 000000000000"):
        build_codec.build_in(tmp_path / "codec", dictionary.spec, m1=other, documents=list, compiled={})
    with pytest.raises(InputError, match="Give the settings with which its rounds were started"):
        refit._compiled(dictionary.spec, other, tmp_path)
    assert snapshot(tmp_path) == before


def test_a_sweep_without_validation_text_makes_nothing(tmp_path, capsys):
    """A corpus without a validation split is refused before anything is compressed."""
    (tmp_path / "text.txt").write_text("some text")
    sweep = ["sweep", "--codec=bytes", f"--corpus=text:{tmp_path}/text.txt", "--size=nano", f"--out={tmp_path}/out"]
    assert main([*sweep, "--tokens=1 steps"]) == 2 and "Split 'validation' was requested" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_without_a_plan_keeps_its_tables(tmp_path):
    """If every cell is refused, the tables of earlier runs are kept."""
    (tmp_path / "ratios.jsonl").write_text("{}\n")
    before = snapshot(tmp_path)
    Sweep(tmp_path, [], {}, corpus=None)._write_tables([])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"\n", b'{"body": 1}\n', b"[1]\n", b"\x28\xb5\x2f\xfd zstd"])
def test_a_refused_corpus_makes_no_folder(content, tmp_path, capsys):
    """A corpus without documents, or with an unreadable first document, leaves no token store."""
    (tmp_path / "a.json").write_bytes(content)
    assert main(["compress", f"--corpus=json:{tmp_path}/a.json", "--codec=bytes", f"--out={tmp_path}/store"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and "a.json" in capsys.readouterr().err
