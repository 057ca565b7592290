"""Commands on gs:// and s3:// paths, with real servers: results as with local paths, and one paragraph per failure."""

import json
import sys

import pytest

from compressed_lm import codecs, io, scaling
from compressed_lm.cli import main
from compressed_lm.codecs import encoded_file
from compressed_lm.commands import commands, failures, paths
from compressed_lm.errors import InputError
from compressed_lm.io import folders, remote, store_errors

PARSERS = {name: command.parser() for name, command in commands().items()}
KINDS = [(paths.READ, "decode", "input"), (paths.FILE, "encode", "output"), (paths.FOLDER, "build-codec", "--out")]
KINDS += [(paths.RUN, "evaluate", "run"), (paths.NEW_RUN, "train", "--out")]
ROW = json.loads((codecs.registry.PRETRAINED / "m1-en" / "row.json").read_text())


@pytest.mark.parametrize(("kind", "name", "argument"), KINDS)
def test_a_missing_bucket_is_refused_before_work(kind, name, argument, stores, capsys):
    """Every kind of path in a missing bucket ends in one paragraph with the argument, and in status 2."""
    parser = PARSERS[name]
    for scheme in ("gs", "s3"):
        stores(scheme)
        line = [name]
        for action in parser._actions:
            mine = argument in (action.dest, *action.option_strings)
            if mine or action.required:
                value = f"{scheme}://no-such-bucket/x" if mine else "1"
                line += [f"{action.option_strings[-1]}={value}"] if action.option_strings else [value]
        assert parser.paths[argument.strip("-")][1] == kind and main(line) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {argument} {scheme}://no-such-bucket/x was given, but the bucket"), error
        assert "does not exist" in error and "Check its name" in error and error.count("\n") == 1


def test_texts_are_encoded_and_decoded_in_buckets(stores, tmp_path, capsys):
    """encode, decode and verify read and write objects, with a codec from a bucket, as they do local files."""
    gs, s3 = stores("gs"), stores("s3")
    codecs.save(codecs.load("eiw16-en"), f"{s3}/codecs/eiw")
    text = b"Some text. " * 500 + b"\xff\x00"
    io.write_atomic(f"{gs}/text", text)
    (tmp_path / "text").write_bytes(text)
    codec = [f"--codec={s3}/codecs/eiw"]
    assert main(["encode", f"{gs}/text", f"{s3}/deep/coded", *codec]) == 0
    assert main(["encode", f"{tmp_path}/text", f"{tmp_path}/coded", "--codec=eiw16-en"]) == 0
    assert io.read_bytes(f"{s3}/deep/coded") == (tmp_path / "coded").read_bytes()
    assert main(["decode", f"{s3}/deep/coded", f"{gs}/back", *codec]) == 0 and io.read_bytes(f"{gs}/back") == text
    assert main(["verify", f"{gs}/text", *codec]) == 0
    assert main(["decode", f"{s3}/deep/none", f"{gs}/back", *codec]) == 2
    assert "deep/none cannot be read (No such file or directory)" in capsys.readouterr().err
    assert io.read_bytes(f"{gs}/back") == text


def test_codecs_in_buckets(bucket_url):
    """A codec that is saved to a bucket is loaded from it; a changed file and a folder without a codec are refused."""
    codec = codecs.load("eiw16-en")
    codecs.save(codec, f"{bucket_url}/eiw")
    assert codecs.load(f"{bucket_url}/eiw").fingerprint == codec.fingerprint
    codecs.save_dictionary(codec, f"{bucket_url}/eiw.clmd")
    assert codecs.load(f"{bucket_url}/eiw.clmd").fingerprint == codec.fingerprint
    with pytest.raises(InputError, match="is not a codec directory"):
        codecs.load(f"{bucket_url}/none")
    name = next(name for name in remote.sizes(f"{bucket_url}/eiw") if name != codecs.registry.HEADER)
    remote.delete(f"{bucket_url}/eiw/{name}")
    with pytest.raises(InputError, match=f"{name} is missing"):
        codecs.load(f"{bucket_url}/eiw")


def test_run_tables_in_buckets(bucket_url, capsys):
    """Rows are appended to an object, an unfinished row is removed, and tables are read by a pattern and by fit."""
    table = f"{bucket_url}/runs/a/runs.jsonl"
    scaling.run_table.check_table(table)
    for step in (1, 2):
        scaling.append_row(table, ROW | {"step": step})
    io.write_atomic(table, io.read_bytes(table) + b'{"run": "unfin')
    scaling.append_row(table, ROW | {"step": 3})
    found = scaling.load_runs(f"{bucket_url}/runs/*/*.jsonl")
    assert list(found["step"]) == [1, 2, 3] and set(found["file"]) == {table}
    io.write_atomic(f"{bucket_url}/other", b"other content")
    for call in (scaling.run_table.check_table, lambda path: scaling.append_row(path, ROW)):
        with pytest.raises(InputError, match="/other is no run table"):
            call(f"{bucket_url}/other")
    assert io.read_bytes(f"{bucket_url}/other") == b"other content"


def test_rows_of_other_writers_are_kept(stores, monkeypatch):
    """A row that another process appends between reading and writing is kept: the write starts over.

    (For s3:// only: the server of gs:// ignores the condition of the write, Google's does not.)
    """
    table = f"{stores('s3')}/runs.jsonl"
    for first in (True, False):  # a missing object and an existing one
        read, late = remote._version, [True]

        def version(path, read=read, late=late):
            found = read(path)
            if late.pop() if late else False:
                scaling.append_row(path, ROW | {"run": "other"})
            return found

        monkeypatch.setattr(remote, "_version", version)
        scaling.append_row(table, ROW | {"run": f"mine {first}"})
        monkeypatch.setattr(remote, "_version", read)
    assert list(scaling.load_runs(table)["run"]) == ["other", "mine True", "other", "mine False"]


def test_a_folder_in_a_bucket_is_written_as_a_whole(bucket_url, monkeypatch):
    """Files of a new folder are uploaded at the end, the JSON that describes them last; a failure leaves nothing."""
    for out in ("failed", "broken", "made"):
        out, order, upload = f"{bucket_url}/{out}", [], remote.upload

        def recorded(file, path, order=order, upload=upload):
            if len(order) == 2 and "broken" in str(path):
                raise OSError("no network")
            order.append(path.name)
            upload(file, path)

        monkeypatch.setattr(remote, "upload", recorded)
        try:
            with folders.new(out, "The folder") as new:
                (new / "config.json").write_text("{}")
                (new / "sub").mkdir()
                for name in ("a", "z", "sub/b.json"):
                    (new / name).write_text(name)
                assert remote.entries(out) == {}
                if "failed" in out:
                    raise KeyError
        except (KeyError, OSError):
            assert remote.entries(out) == {}
        monkeypatch.setattr(remote, "upload", upload)
    assert order == ["a", "b.json", "z", "config.json"]
    assert io.read_bytes(f"{bucket_url}/made/sub/b.json") == b"sub/b.json"
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        folders.check_new(f"{bucket_url}/made", "The folder")


def test_a_store_that_ends_in_the_middle_is_one_paragraph(bucket_url, proxy, monkeypatch, capsys):
    """A server that answers the checks and then no more ends in one paragraph and status 2, without an output."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(store_errors, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("gcsfs.retry.random.random", lambda: -32.0)  # no waiting: 2 ** n - 32 seconds, and n < 6
    io.write_atomic(f"{bucket_url}/text", b"Some text.")
    encode_file = encoded_file.encode_file

    def broken(*arguments, **options):  # after all checks, before the upload
        proxy.broken = [503] * 100
        return encode_file(*arguments, **options)

    monkeypatch.setattr(encoded_file, "encode_file", broken)
    capsys.readouterr()
    assert main(["encode", f"{bucket_url}/text", f"{bucket_url}/out", "--codec=bytes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: The object store does not answer") and f"({bucket_url}/out)" in error, error
    assert "run the same command again" in error and "Traceback" not in error
    proxy.broken = []
    assert not remote.exists(f"{bucket_url}/out")


def test_errors_of_other_libraries_are_explained():
    """An error of a store's package that another library raises unchanged is a paragraph with what to check."""
    exceptions = pytest.importorskip("botocore.exceptions")
    message = failures.explain(exceptions.NoCredentialsError())
    assert "NoCredentialsError: Unable to locate credentials" in message and "aws configure" in message


@pytest.mark.slow("trains and evaluates a model through the command line")
def test_a_run_is_trained_evaluated_and_reported_in_buckets(stores, tmp_path, capsys):
    """train, evaluate, weights and quantize work on a run in a bucket, with the run table in another one."""
    gs, s3 = stores("gs"), stores("s3")
    (tmp_path / "text.txt").write_text("some text " * 300)
    store = f"{tmp_path}/store"
    assert main(["compress", f"--corpus=text:{tmp_path}/text.txt", "--codec=bytes", f"--out={store}"]) == 0
    tiny = ["model.size=nano", "model.d_model=32", "model.n_heads=1", "train.seq_len=16", "train.batch_size=8"]
    for root in (gs, s3):
        settings = [f"--set={setting}" for setting in tiny]
        assert main(["train", f"--store={store}", f"--out={root}/run", "--steps=2", *settings]) == 0
        assert {"config.json", "config.gin", "metrics.jsonl"} <= set(remote.sizes(f"{root}/run"))
        table = [f"--table={s3}/runs.jsonl", f"--store={store}", f"--train_store={store}"]
        assert main(["evaluate", f"{root}/run", "--codec=bytes", *table]) == 0, capsys.readouterr().err
        assert main(["weights", f"{root}/run", f"--out={root}/weights.html"]) == 0
        assert io.read_bytes(f"{root}/weights.html").startswith(b"<!doctype html>")
    rows = scaling.load_runs(f"{s3}/runs.jsonl")
    assert len(rows) == 2 and rows["bits_per_byte"].nunique() == 1


def test_a_command_without_object_stores_does_not_import_their_packages():
    """fsspec, gcsfs and s3fs are imported when the first remote path is used."""
    import subprocess

    code = "import sys, compressed_lm.codecs, compressed_lm.scaling, compressed_lm.io\n"
    code += "print([name for name in ('fsspec', 'gcsfs', 's3fs', 'botocore', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
