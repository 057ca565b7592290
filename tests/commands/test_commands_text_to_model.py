"""Commands on a small corpus of real text, in the order of a typical session."""

import dataclasses
import json
import re

import pytest

from compressed_lm import codecs
from compressed_lm.cli import main
from compressed_lm.data.store import TokenStore
from compressed_lm.data.window_starts import WindowStarts
from compressed_lm.pipelines import refit

TINY = [
    "--set=model.size=nano",
    "--set=model.d_model=32",
    "--set=model.n_heads=1",
    "--set=train.seq_len=64",
    "--set=train.batch_size=8",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Docstrings of the standard library's argparse, as JSON lines."""
    import argparse
    import inspect

    folder = tmp_path_factory.mktemp("corpus")
    texts = [text for _, member in inspect.getmembers(argparse) if (text := inspect.getdoc(member)) and len(text) > 100]
    source = inspect.getsource(argparse)
    texts += [source[i : i + 700] for i in range(0, 60_000, 700)]
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[5:]))
    (folder / "validation.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[:5]))
    return folder


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    """M1, a codec, its stores and a trained model."""
    out = tmp_path_factory.mktemp("run")
    text = f"--corpus=json:{corpus}/train.jsonl"
    assert main(["train-m1", text, f"--out={out}/m1", "--steps=12", *TINY]) == 0
    assert main(["build-codec", "eiw(b=9,v=512)", f"--m1={out}/m1", f"--out={out}/codec"]) == 0
    for split in ("train", "validation"):
        source = f"--corpus=json:{corpus}/{split}.jsonl"
        assert main(["compress", source, f"--codec={out}/codec", f"--out={out}/{split}", "--n_shards=2"]) == 0
    validation = f"--validation_store={out}/validation"
    assert main(["train", f"--store={out}/train", f"--out={out}/m2", "--steps=10", validation, *TINY]) == 0
    return out


@pytest.mark.slow("trains models through the command line")
def test_encode_decode_verify(built, tmp_path, capsys):
    """A file encoded by one call is restored by another, and verify confirms it."""
    (tmp_path / "in").write_bytes(b"argparse \xff\x00 text")
    codec = f"--codec={built}/codec"
    assert main(["encode", f"{tmp_path}/in", f"{tmp_path}/coded", codec]) == 0
    assert main(["decode", f"{tmp_path}/coded", f"{tmp_path}/out", codec]) == 0
    assert (tmp_path / "out").read_bytes() == b"argparse \xff\x00 text"
    assert main(["verify", f"{tmp_path}/in", f"{built}/train", codec]) == 0
    assert "checksums correct" in capsys.readouterr().out


@pytest.mark.slow("trains models through the command line")
def test_compile_writes_one_file_that_is_a_codec(built, tmp_path, capsys, monkeypatch):
    """`compile` writes the dictionary of `build-codec` as one file that every command accepts.

    A refit trains M1 on its own windows, and a second call reuses the finished rounds.
    """
    assert main(["compile", f"--m1={built}/m1", "--b=9", f"--out={tmp_path}/node.clmd"]) == 0
    compiled, directory = codecs.load(tmp_path / "node.clmd"), codecs.load(built / "codec")
    assert (compiled.spec, compiled.fingerprint) == (directory.spec, directory.fingerprint)
    (tmp_path / "in").write_bytes(b"argparse \xff\x00 text")
    assert main(["verify", f"{tmp_path}/in", f"--codec={tmp_path}/node.clmd"]) == 0

    monkeypatch.setattr(refit, "CALIBRATION_ROWS", 16)  # with all of them ranges take most of the time
    config = dataclasses.replace(refit.REFIT, steps=3, batch_size=8)
    arguments = dict(rounds=1, out=tmp_path / "rounds", config=config, max_bytes=30_000)
    refitted = refit.refit("eiw(b=9,fill=best,v=512)", built / "m1", **arguments)
    capsys.readouterr()
    again = refit.refit("eiw(b=9,fill=best,v=512)", built / "m1", **arguments)
    assert (again.fingerprint, len(again.dictionary)) == (refitted.fingerprint, 512)
    assert "steps/s" not in capsys.readouterr().err
    rows = WindowStarts(TokenStore.open(built / "m1" / "tokens"), refitted, max_bytes=30_000).rows(16)
    first = TokenStore.open(built / "m1" / "tokens").document(0).ids
    length = refitted.token_byte_lengths(refitted.encode(first.astype("u1").tobytes()))[0]
    assert rows[0].tolist() == first[:16].tolist() and rows[1].tolist() == first[length : length + 16].tolist()


@pytest.mark.slow("trains models through the command line")
def test_inspect_evaluate_generate_report(built, tmp_path, capsys):
    """inspect, evaluate, generate and report print their documented output, and the run table gives a report."""
    codec = f"--codec={built}/codec"
    assert main(["inspect", f"{built}/validation", codec]) == 0
    table = f"--table={tmp_path}/runs.jsonl"
    stores = [f"--store={built}/validation", f"--train_store={built}/train"]
    assert main(["evaluate", f"{built}/m2", codec, *stores, table]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    assert main(["generate", f"{built}/m2", codec, "--prompt=usage: ", "--n_tokens=20"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow("trains models through the command line")
def test_quantize_packs_a_run_that_evaluates(built, tmp_path, capsys):
    """A packed run is evaluated like any other; its row names the format, and 8 bits hardly change the loss."""
    evaluate = [f"--codec={built}/codec", f"--store={built}/validation", f"--train_store={built}/train"]
    for form in ("int(b=8,scale=absmax)", "int(b=1)"):
        out = f"{tmp_path}/{form[6]}"
        assert main(["quantize", f"{built}/m2", "--format", form, f"--out={out}"]) == 0
        assert f"weights of the blocks in {form} take" in capsys.readouterr().out
        assert main(["evaluate", out, *evaluate, f"--table={tmp_path}/runs.jsonl"]) == 0
    assert main(["evaluate", f"{built}/m2", *evaluate, f"--table={tmp_path}/runs.jsonl"]) == 0
    eight, one, dense = (json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines())
    assert (eight["weights"], one["weights"], dense["weights"]) == ("int(b=8,scale=absmax)", "int(b=1)", "dense")
    assert one["representation"] == "float32 weights=int(b=1)" and dense["representation"] == "float32"
    assert 1 < one["bits_per_weight"] < 2 and one["gmse_weights"] == pytest.approx(0.36338, rel=1e-3)
    assert (
        abs(eight["bits_per_byte"] - dense["bits_per_byte"]) < 1e-2 < abs(one["bits_per_byte"] - dense["bits_per_byte"])
    )


@pytest.mark.slow("trains models through the command line")
def test_pack_codes_a_run_in_a_file_that_unpacks_to_a_run(built, tmp_path, capsys):
    """The printed size is that of the file, a fine step hardly changes the loss, and a changed file is refused."""
    file, out = tmp_path / "m2.clb", f"{tmp_path}/m2"
    assert main(["pack", f"{built}/m2", "--step=0.05std", f"--out={file}"]) == 0
    assert f"weights in {file.stat().st_size:,} bytes on disk" in capsys.readouterr().out
    assert main(["unpack", str(file), f"--out={out}"]) == 0
    evaluate = [f"--codec={built}/codec", f"--store={built}/validation", f"--train_store={built}/train"]
    for run in (out, f"{built}/m2"):
        assert main(["evaluate", run, *evaluate, f"--table={tmp_path}/runs.jsonl"]) == 0
    coded, dense = (json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines())
    assert 0 < abs(coded["bits_per_byte"] - dense["bits_per_byte"]) < 1e-2
    file.write_bytes(file.read_bytes()[:-40])
    assert main(["unpack", str(file), f"--out={tmp_path}/again"]) == 2
    assert "truncated or changed" in capsys.readouterr().err


@pytest.mark.slow("trains models through the command line")
def test_a_reshaped_run_trains_on(built, tmp_path, capsys):
    """Training starts from the weights of a run or a reshaped run; a start of another size is refused."""
    assert main(["reshape", f"{built}/m2", f"--out={tmp_path}/reshaped"]) == 0
    assert "standard deviations multiplied by 0." in capsys.readouterr().out
    train = ["train", f"--store={built}/train", *TINY, "--steps=1"]
    losses = []
    for k, start in enumerate(([f"--start={built}/m2"], [f"--start={tmp_path}/reshaped"], [])):
        assert main([*train, *start, f"--out={tmp_path}/run{k}"]) == 0
        losses.append(float(re.search(r"last training loss ([\d.]+)", capsys.readouterr().out)[1]))
    assert losses[0] < losses[2] - 0.1 and len(set(losses)) == 3
    assert main([*train, "--set=model.d_ff=128", f"--start={built}/m2", f"--out={tmp_path}/other"]) == 2
    assert "mlp/up/kernel is (2, 32, 128) and was" in capsys.readouterr().err


@pytest.mark.slow("trains models through the command line")
def test_a_run_shrinks_and_trains_further(built, tmp_path, capsys):
    """A run shrinks to a smaller run that trains further, evaluates and exports without the large weights.

    A dry run prints the cost and writes nothing.
    """
    store, settings = f"--store={built}/train", ["--set=train.seq_len=64", "--set=train.batch_size=8", "--steps=2"]
    shrink = ["shrink", f"{built}/m2", "--keep=0.5", store, "--calibration=8", *settings]
    assert main([*shrink, f"--out={tmp_path}/small", "--dry_run"]) == 0
    assert "projection FLOPs per step" in capsys.readouterr().out and not (tmp_path / "small").exists()
    assert main([*shrink, f"--out={tmp_path}/small", f"--validation_store={built}/validation"]) == 0
    assert "d_model 16" in capsys.readouterr().out
    assert main(["train", store, f"--start={tmp_path}/small", f"--out={tmp_path}/more", *settings]) == 0
    assert json.loads((tmp_path / "more" / "config.json").read_text())["model"]["d_model"] == 16
    evaluate = ["evaluate", f"{tmp_path}/small", f"--codec={built}/codec", f"--store={built}/validation"]
    assert main([*evaluate, f"--train_store={built}/train"]) == 0
    assert main([*shrink, f"--out={tmp_path}/small", "--set=model.d_ff=8"]) == 2
    assert "--keep and --aspect" in capsys.readouterr().err


@pytest.mark.slow("trains models through the command line")
def test_weights_prints_shapes_and_writes_their_report(built, tmp_path, capsys):
    """`weights` prints a row per array and two for all arrays, and writes a page with histograms."""
    assert main(["weights", f"{built}/m2", f"--out={tmp_path}/weights.html"]) == 0
    printed = capsys.readouterr().out
    assert "layers/mlp/up/kernel" in printed and "all, each over its std" in printed
    assert (tmp_path / "weights.html").read_text(encoding="utf-8").count("data:image/") > 3


def test_fit_prints_the_law_of_a_table(tmp_path, capsys):
    """A law is fitted to a CSV file with other column names, and the report contains it."""
    header, rows = "size,data,nats", []
    for n in (1e6, 4e6, 16e6, 64e6):
        rows += [f"{n},{d},{400 * n**-0.34 + 410 * d**-0.28 + 1.7}" for d in (1e8, 1e9, 1e10)]
    (tmp_path / "runs.csv").write_text("\n".join([header, *rows]))
    columns = ["--column", "n_params=size", "--column", "tokens=data", "--column", "loss=nats"]
    report = ["--bootstrap", "20", "--report", f"{tmp_path}/out.html"]
    assert main(["fit", f"{tmp_path}/runs.csv", *columns, *report]) == 0
    printed = dict(
        line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith(("A ", "alpha "))
    )
    assert float(printed["A"]) == pytest.approx(400, rel=1e-3) and float(printed["alpha"]) == pytest.approx(
        0.34, rel=1e-3
    )
    assert "alpha" in (tmp_path / "out.html").read_text()
    assert main(["fit", f"{tmp_path}/runs.csv"]) == 2
    assert "lacks the column(s) 'n_params'" in capsys.readouterr().err


@pytest.mark.slow("trains models through the command line")
def test_bad_input_is_one_paragraph_and_status_2(built, corpus, tmp_path, capsys):
    """Each mistake ends in status 2 and one line with the input and the advice, without a traceback."""
    codec = f"--codec={built}/codec"
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_text.jsonl").write_text('{"body": "x"}\n')
    (tmp_path / "nothing.jsonl").write_text("")
    main(["encode", str(corpus / "validation.jsonl"), f"{tmp_path}/coded", codec])
    content = (tmp_path / "coded").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-9])
    compress = ["compress", f"--out={tmp_path}/store"]
    cases = [
        (["decode", f"{tmp_path}/cut", f"{tmp_path}/x", codec], "truncated or changed"),
        (["decode", f"{tmp_path}/coded", f"{tmp_path}/x", "--codec=bytes"], "Give the codec that encoded it"),
        (["decode", f"{tmp_path}/gone", f"{tmp_path}/x", codec], "No such file"),
        (["encode", f"{tmp_path}/coded", f"{tmp_path}/x", f"--codec={tmp_path}/empty"], "not a codec directory"),
        (["build-codec", "eiv(b=16)", f"--out={tmp_path}/c"], "Did you mean eiw"),
        ([*compress, "--corpus=json:nowhere*.gz", "--codec=bytes"], "nowhere"),
        ([*compress, f"--corpus=json:{tmp_path}/no_text.jsonl", "--codec=bytes"], "text"),
        ([*compress, f"--corpus=json:{tmp_path}/nothing.jsonl", "--codec=bytes"], "no document"),
        (["train", f"--store={tmp_path}/empty", f"--out={tmp_path}/r", "--steps=1"], "no manifest.json"),
        (["train", f"--store={built}/train", f"--out={tmp_path}/r", "--set=train.stepz=1"], "Did you mean steps"),
        (
            [
                "evaluate",
                f"{built}/m2",
                "--codec=bytes",
                f"--store={built}/validation",
                f"--train_store={built}/train",
            ],
            "another M1",
        ),
        (["generate", f"{built}/m2", "--codec=bytes"], "Give the codec that made its tokens"),
        (["report", f"{tmp_path}/empty"], "no runs.jsonl"),
    ]
    capsys.readouterr()
    for argv, message in cases:
        status = main(argv)
        error = capsys.readouterr().err
        assert status == 2 and message in error and "Traceback" not in error, (argv, status, error)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow("trains models through the command line")
def test_a_larger_vocabulary_than_the_models_is_refused(built, tmp_path, capsys):
    """A run resumes only with the tokens with which it was started."""
    assert main(["compress", "--corpus=json:" + str(tmp_path / "a.jsonl"), "--codec=bytes", f"--out={tmp_path}/s"]) == 2
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "some text " * 400}) + "\n")
    assert (
        main(["compress", f"--corpus=json:{tmp_path}/a.jsonl", "--codec=bytes", f"--out={tmp_path}/s", "--n_shards=1"])
        == 0
    )
    assert main(["train", f"--store={tmp_path}/s", f"--out={built}/m2", "--steps=10", *TINY]) == 2
    assert "another token store" in capsys.readouterr().err
