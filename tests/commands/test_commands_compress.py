"""Command `compress`: sources, workers, engines, launchers and dry runs from the command line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from compressed_lm.cli import main
from compressed_lm.data import estimate
from tests.data.made_corpus import MadeCorpus


@pytest.fixture
def corpus(tmp_path):
    for name in "ab":
        lines = (json.dumps({"text": f"{name} {i} " + "some words " * (i % 9), "id": f"{name}{i}"}) for i in range(200))
        (tmp_path / f"{name}.json").write_text("\n".join(lines))
    return f"json:{tmp_path}/*.json"


def files(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def compress(corpus, out, *more):
    return main(["compress", f"--corpus={corpus}", "--codec=bytes", f"--out={out}", *more])


def test_workers_and_processes_of_a_launcher_write_the_same_store(corpus, tmp_path, monkeypatch, capsys):
    """The default (all cores), one worker, and the processes of a Slurm array end in the same files."""
    mixture = f"mix:json:{tmp_path}/a.json,json:{tmp_path}/b.json"
    assert compress(mixture, tmp_path / "default") == 0
    assert compress(mixture, tmp_path / "one", "--workers=1") == 0
    for task in ("8", "7"):  # of a Slurm array --array=7-8
        for name, value in {"ID": task, "COUNT": "2", "MIN": "7"}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
        assert compress(mixture, tmp_path / "array") == 0
    shown = capsys.readouterr().out
    assert "Process 1 of 2 (a Slurm array)." in shown and "Process 0 of 2 (a Slurm array)." in shown
    assert "the process that finishes last writes the shards" in shown
    assert "50.000% of the bytes: json:" in shown
    assert files(tmp_path / "default") == files(tmp_path / "one") == files(tmp_path / "array")


def test_standard_input_is_a_corpus(corpus, tmp_path):
    """JSON lines from a pipe give the shards of the same lines in a file."""
    assert compress(f"json:{tmp_path}/a.json", tmp_path / "file") == 0
    arguments = ["compress", "--corpus=-", "--codec=bytes", f"--out={tmp_path}/in"]
    program = f"import sys; from compressed_lm.cli import main; sys.exit(main({arguments!r}))"
    run = subprocess.run([sys.executable, "-c", program], input=(tmp_path / "a.json").read_bytes(), capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    content = [name for name in files(tmp_path / "file") if not name.endswith(".json")]
    assert all(files(tmp_path / "file")[name] == files(tmp_path / "in")[name] for name in content) and content


@pytest.mark.parametrize(
    "more, message",
    [
        (["--n_shards=2", "--shard_bytes=100"], "--n_shards and --shard_bytes were given; both determine the shards"),
        (["--engine=ray", "--process_count=2"], "the engine divides the work itself"),
        (["--process_index=2", "--process_count=2"], "processes are numbered from 0"),
    ],
)
def test_options_that_exclude_each_other_are_refused(corpus, tmp_path, capsys, more, message):
    """Contradictory options are one line of error and exit 2, and nothing is written."""
    assert compress(corpus, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--workers=2"], ["--process_count=2"], ["--engine=ray"], ["--dry_run"]])
def test_a_stream_is_refused_for_several_readers(tmp_path, capsys, more):
    """The standard input with several readers is refused before anything is read."""
    assert compress("-", tmp_path / "out", *more) == 2
    assert "can be read only once and by one process" in capsys.readouterr().err


def test_dry_run_prints_the_store_and_writes_nothing(corpus, tmp_path, capsys):
    """The estimate for the corpus at hand is its true size; for a larger one it scales with the bytes."""
    assert compress(corpus, tmp_path / "out", "--dry_run", "--workers=3") == 0
    small = capsys.readouterr().out
    assert compress(corpus, tmp_path / "out", "--dry_run=8.06e11", "--workers=64") == 0
    large = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "1.000 bytes per token" in small and "units of work: 1" in small and "3, of which 1 have work" in small
    assert "806.000 GB in" in large and "3,003 shards" in large and "64, of which 64 have work" in large


def test_estimates_are_those_of_the_finished_store(tmp_path):
    """Documents, tokens, shards and size of the files are estimated within 2 % for a corpus of like documents."""
    from compressed_lm import codecs
    from compressed_lm.data.job import compress

    texts = [b"Some words, number %d, and more words. " % i * 20 for i in range(2000)]
    corpus, codec = MadeCorpus(texts, [500] * 4), codecs.load("pieces16-en")
    found = estimate.estimate(corpus, "train", codec, shard_bytes=50_000, sample_bytes=200_000)
    store = compress(corpus, "train", codec, tmp_path / "out", shard_bytes=50_000)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("tokens-*") if path.suffix != ".json")
    assert found.n_documents == pytest.approx(len(store), rel=0.02)
    assert found.n_tokens == pytest.approx(store.n_tokens, rel=0.02)
    assert found.store_bytes == pytest.approx(size, rel=0.02)
    assert found.n_shards == pytest.approx(len(store.manifest["shards"]), abs=1)
    assert found.sampled_bytes == pytest.approx(200_000, rel=0.02) and found.n_units == 4
    assert found.hours > 0 and found.encode_bytes_per_second > 0


def test_estimates_of_codecs_with_a_model_fill_the_slots_once(tmp_path):
    """A codec that runs a model is measured on one short text in each batch slot, not on the whole sample."""
    from compressed_lm.codecs.bytes_codec import Bytes

    class WithModel(Bytes):
        flops_per_byte = 1.0
        seen = 0

        def encode_batch(self, documents):
            WithModel.seen += sum(map(len, documents))
            return super().encode_batch(documents)

    corpus = MadeCorpus([os.urandom(1000)] * 3000)
    found = estimate.estimate(corpus, "train", WithModel(), shard_bytes=1 << 20, slots=16)
    assert WithModel.seen == 16 * (256 + 16) and found.n_tokens == found.n_bytes == 3_000_000
