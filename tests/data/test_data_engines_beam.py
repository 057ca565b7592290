"""Engine of Apache Beam; most tests run in the environment of `make test-beam`."""

import hashlib
import importlib.util
import json
import pathlib

import pytest

from compressed_lm import codecs
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.engines.beam import Beam
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError

INSTALLED = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not INSTALLED, reason="needs Apache Beam, which has an environment of its own: make test-beam"
)
DOCUMENTS = pathlib.Path(__file__).parent / "v0.1.0" / "documents.jsonl"


class Stops(Bytes):
    """Codec of bytes that refuses documents with the word `stop` while a file exists."""

    def __init__(self, flag):
        self.flag = flag

    def _encode_documents(self, documents):
        if self.flag.exists() and any(b"stop" in document for document in documents):
            raise InputError("A document with `stop` was given; others were expected. Remove it.")
        return super()._encode_documents(documents)


@pytest.fixture
def corpus(tmp_path):
    """Four files, of which the last one has the word `stop`; in a mixture, each is a unit of work."""
    lines = DOCUMENTS.read_text().splitlines()
    parts = [lines[part::3] for part in range(3)] + [[json.dumps({"text": "please stop"})]]
    for part, chosen in enumerate(parts):
        (tmp_path / f"part-{part}.jsonl").write_text("\n".join(chosen) + "\n")
    return open_corpus("mix:" + ",".join(f"json:{tmp_path}/part-{part}.jsonl" for part in range(4)))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.skipif(INSTALLED, reason="Apache Beam is installed")
def test_beam_that_is_missing_says_how_to_install_it():
    """Without Beam the engine names the environment that it needs."""
    with pytest.raises(InputError, match=r"engine beam needs Apache Beam.*pip install -c constraints/beam.txt"):
        Beam()


@needs_beam
@pytest.mark.parametrize("max_bytes", [None, 3000, 1])
def test_a_store_of_beam_is_that_of_one_process(corpus, tmp_path, max_bytes):
    """The store has the same bytes, manifest included, with and without Beam, also with a limit of bytes."""
    codec = codecs.load("pieces16-en")
    for name, engine in (("local", None), ("beam", Beam())):
        compress(corpus, "train", codec, tmp_path / name, engine=engine, max_bytes=max_bytes)
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")


@needs_beam
@pytest.mark.slow("starts two processes of Beam")
def test_processes_of_beam_make_the_same_store(corpus, tmp_path):
    """Two worker processes, which unpickle the job, make the same store."""
    codec = codecs.load("eiw16-en")
    for name, engine in (("local", None), ("beam", Beam(workers=2))):
        compress(corpus, "train", codec, tmp_path / name, engine=engine)
    assert digests(tmp_path / "beam") == digests(tmp_path / "local")


@needs_beam
@pytest.mark.parametrize("options", [(), ("--runner=DirectRunner", "--direct_running_mode=multi_threading")])
def test_an_error_in_a_worker_is_reported_and_the_job_goes_on_later(corpus, tmp_path, options):
    """The error is one paragraph; run again without its cause, the job makes the same store."""
    flag = tmp_path / "flag"
    flag.touch()
    codec = Stops(flag)
    out = tmp_path / "beam"
    with pytest.raises(InputError) as caught:
        compress(corpus, "train", codec, out, engine=Beam(options))
    assert str(caught.value) == "A document with `stop` was given; others were expected. Remove it."
    flag.unlink()
    compress(corpus, "train", codec, out, engine=Beam(options))
    compress(corpus, "train", codec, tmp_path / "local")
    assert digests(out) == digests(tmp_path / "local")


@needs_beam
def test_a_runner_that_does_not_exist_is_an_error(corpus, tmp_path):
    """What Beam itself refuses is one paragraph with its reason, and says that the job can be run again."""
    with pytest.raises(
        InputError, match=r"pipeline of Apache Beam failed \(ValueError: .*NoRunner.*run the same command"
    ):
        compress(corpus, "train", Bytes(), tmp_path / "beam", engine=Beam(["--runner=NoRunner"]))
