"""Files written by version 0.1.0 can be read (tests/data/v0.1.0/README.md has the commands)."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from compressed_lm import codecs, cramming, scaling
from compressed_lm.cli import main
from compressed_lm.codecs import encoded_file
from compressed_lm.data.store import TokenStore
from compressed_lm.post_training import entropy_code
from compressed_lm.tracking import read_json_lines
from compressed_lm.training import load_run

OLD = pathlib.Path(__file__).parent / "data" / "v0.1.0"
FINGERPRINTS = {"codec": "1e55ba90b0a7", "codec-static_ac": "3466bda253b4", "codec-gzip": "3f9ba99e83f2"}
DOCUMENTS = [json.loads(line)["text"].encode() for line in (OLD / "documents.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def codec():
    return codecs.load(OLD / "codec")


@pytest.fixture(scope="module")
def store(codec):
    return TokenStore.open(OLD / "store", fingerprint=codec.fingerprint)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_codecs_are_read(name):
    """Codec directories load with their old fingerprint and are lossless."""
    loaded = codecs.load(OLD / name)
    assert loaded.fingerprint.startswith(FINGERPRINTS[name])
    assert [loaded.decode(loaded.encode(d)) for d in DOCUMENTS] == DOCUMENTS


def test_dictionary_files_are_read():
    """A compiled dictionary loads with its old fingerprint and is lossless."""
    loaded = codecs.load(OLD / "eiw.clmd")
    assert (loaded.spec, loaded.fingerprint[:12]) == ("eiw(b=8,v=256)", "08b47cddb6fb")
    assert [loaded.decode(loaded.encode(d)) for d in DOCUMENTS] == DOCUMENTS


def test_encoded_files_are_read(codec):
    """An encoded file decodes to its text, and encoding the text gives the same bytes today."""
    text, content = (OLD / "text.txt").read_bytes(), (OLD / "text.clm").read_bytes()
    assert encoded_file.decode_file(content, codec, name="text.clm") == text
    assert encoded_file.encode_file(text, codec) == content


def test_stores_are_read(codec, store):
    """A token store passes its checksums and has the ids that encoding gives today."""
    store.verify()
    assert [codec.decode(record.ids) for record in store.documents()] == DOCUMENTS
    assert all(
        np.array_equal(record.ids, codec.encode(d)) for record, d in zip(store.documents(), DOCUMENTS, strict=True)
    )


def test_runs_are_read_and_evaluated(codec, store, tmp_path):
    """A run loads and evaluates to the row recorded by 0.1.0."""
    assert load_run(OLD / "run", codec=codec, store=store).step == 20
    stores = [f"--store={OLD}/store", f"--train_store={OLD}/store"]
    assert main(["evaluate", f"{OLD}/run", f"--codec={OLD}/codec", *stores, f"--table={tmp_path}/runs.jsonl"]) == 0
    (row,), (old,) = (
        scaling.load_runs(path).to_dict("records") for path in (tmp_path / "runs.jsonl", OLD / "runs.jsonl")
    )
    assert row["bits_per_byte"] == pytest.approx(old["bits_per_byte"], rel=1e-5)
    for name in ("codec", "n_params", "n_nonembed", "tokens", "bytes", "flops_per_byte", "config_hash", "step"):
        assert row[name] == old[name]


def test_unfinished_runs_resume(tmp_path):
    """A run that 0.1.0 left at step 20 of 30 ends with the loss that 0.1.0 reached (6.520727 nats per token)."""
    shutil.copytree(OLD / "run-unfinished", tmp_path / "run")
    gin = [f"--gin={tmp_path}/run/config.gin"]
    assert main(["train", *gin, f"--store={OLD}/store", f"--out={tmp_path}/run", "--mesh=1,1,1"]) == 0
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[-1]["loss_nats_per_token"] == pytest.approx(6.520726680755615, rel=1e-5)


def test_packed_runs_are_read(codec, store, tmp_path):
    """Weights packed in a format and weights coded into one file are read as runs of the same model."""
    run = load_run(OLD / "run")
    packed = load_run(OLD / "run-int4", codec=codec, store=store)
    assert (packed.packed["format"], packed.model_config) == ("int(b=4,g=16)", run.model_config)
    entropy_code.unpack_run(OLD / "run.clb", out=tmp_path / "unpacked")
    unpacked = load_run(tmp_path / "unpacked", codec=codec, store=store)
    kernels = [r.params["layers"]["mlp"]["up"]["kernel"] for r in (run, packed, unpacked)]
    error = [float(np.mean((k - kernels[0]) ** 2) / np.mean(kernels[0] ** 2)) for k in kernels]
    assert 0 < error[1] < 0.02 and 0 < error[2] < 0.01  # int4, and a step of 0.25 standard deviations


def test_crammed_texts_are_read(codec):
    """A crammed text loads for the model for which it was made."""
    crammed = cramming.CrammedText.load(OLD / "short.clt")
    model = cramming.FrozenModel.from_run(load_run(OLD / "run", codec=codec))
    assert codec.decode(crammed.write(model)) == (OLD / "short.txt").read_bytes()
