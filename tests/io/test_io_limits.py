"""Small files that would need gigabytes are refused."""

import gzip
import hashlib
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import encoded_file
from compressed_lm.cramming.crammed_text import CrammedText
from compressed_lm.cramming.vectors import Mapping, pack
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.io import limits
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.weights import bitstream

MOST = 64 << 20


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """Sets a limit of 16 MB; fails if more than four times as much was allocated."""
    monkeypatch.setenv(limits.VARIABLE, str(16 << 20))
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST, f"{peak:,} bytes"


def edited(content, change, *, deflated=False):
    """Returns a container with a changed header and a correct checksum."""
    (length,) = struct.unpack_from("<I", content, 8)
    head = content[12 : 12 + length]
    header = json.loads(zlib.decompress(head) if deflated else head)
    change(header)
    head = zlib.compress(json.dumps(header).encode()) if deflated else json.dumps(header).encode()
    body = content[:8] + struct.pack("<I", len(head)) + head + content[12 + length : -32]
    return body + hashlib.sha256(body).digest()


def encoded(codec, ids, *, n_bytes):
    """Returns an encoded file with any ids, any claimed size and a correct checksum."""
    content = encoded_file.encode_file(b"", codec)
    (length,) = struct.unpack_from("<I", content, 8)
    header = json.loads(content[12 : 12 + length]) | {"n_bytes": n_bytes, "n_tokens": len(ids)}
    text = json.dumps(header).encode()
    body = content[:8] + struct.pack("<I", len(text)) + text + ids.astype(">u2").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def test_an_encoded_file_is_as_long_as_it_says():
    """1 MB of ids of the longest strings, more than 100 MB of text, is refused for any claimed size."""
    codec = codecs.load("eiw16-en")
    longest = int(codec.token_byte_lengths(np.arange(65536)).argmax())
    ids = np.full(500_000, longest)
    n_bytes = int(codec.token_byte_lengths(ids).sum())
    with pytest.raises(InputError, match=f"at most 64,.* bytes of text are decoded from it .*{limits.VARIABLE}"):
        encoded_file.decode_file(encoded(codec, ids, n_bytes=10 * n_bytes), codec)
    with pytest.raises(InputError, match="its tokens represent"):
        encoded_file.decode_file(encoded(codec, ids, n_bytes=5), codec)


def test_a_deflated_file_stops_at_what_it_promises():
    """A zlib stream of 1 GB is decoded only up to the size in the header."""
    codec, packer = codecs.create("gzip(v=65536)"), zlib.compressobj(9)
    stream = b"".join([packer.compress(bytes(1 << 20)) for _ in range(300)] + [packer.flush()])
    ids = np.frombuffer(stream + bytes(len(stream) % 2), ">u2").astype(np.int64)
    with pytest.raises(Exception, match="unpack to more than the expected 1,000 bytes") as caught:
        encoded_file.decode_file(encoded(codec, ids, n_bytes=1000), codec)
    assert type(caught.value).__name__ == "CorruptStream"


def test_a_line_that_unpacks_to_gigabytes_is_named(tmp_path):
    """One huge line in a small .json.gz raises an error with its number, and does not take 12 GB."""
    with gzip.open(tmp_path / "a.json.gz", "wb") as file:
        file.write(b'{"text": "short"}\n{"text": "')
        for _ in range(40):
            file.write(b"a" * (1 << 20))
    documents = open_corpus(f"json:{tmp_path}/a.json.gz").documents("train")
    assert next(documents) == b"short"
    with pytest.raises(InputError, match=rf"Line 2 of .*a.json.gz has more than 16,777,216 bytes.*{limits.VARIABLE}"):
        next(documents)


def test_a_text_that_unpacks_to_gigabytes_is_named(tmp_path):
    """A small compressed text is read only up to the limit; a plain one of any size is read."""
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        for _ in range(40):
            file.write(b"a" * (1 << 20))
    with pytest.raises(InputError, match="a.txt.gz unpacks to more than 16,777,216 bytes"):
        list(open_corpus(f"text:{tmp_path}/a.txt.gz").documents("train"))
    (tmp_path / "b.txt").write_bytes(b"b" * (20 << 20))
    assert [len(d) for d in open_corpus(f"text:{tmp_path}/b.txt").documents("train")] == [20 << 20]


@pytest.mark.parametrize(
    "change",
    [{"n_tokens": 1 << 40}, {"n_tokens": 1 << 18}, {"width": 1 << 40}, {"dimensions": 1 << 40}, {"width": 12}],
    ids=str,
)
def test_a_crammed_text_promises_what_it_may_hold(change, tmp_path):
    """360 bytes whose header claims 2**40 tokens or a projection of 2**40 rows are refused."""
    numbers = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    CrammedText(pack(numbers, "int(b=4)"), Mapping(16, 12, 3), 9, "a" * 32, "bytes", "b" * 8).save(tmp_path / "t.clt")
    good = (tmp_path / "t.clt").read_bytes()
    (tmp_path / "t.clt").write_bytes(edited(good, lambda header: header.update(change), deflated=True))
    if change == {"width": 12}:  # a right file, of another model
        assert CrammedText.load(tmp_path / "t.clt").mapping.width == 12
        return
    with pytest.raises(InputError, match="has an invalid header"):
        CrammedText.load(tmp_path / "t.clt")


def test_coded_weights_are_no_more_than_their_bytes_may_hold(tmp_path):
    """160 bytes that claim 4e9 weights are refused; many equal weights in a few bytes are read."""
    bitstream.save(
        tmp_path / "w.clb", {"w": bitstream.pack(np.zeros(1 << 18, np.float32), coder="range", step="1")}, record={}
    )
    good = (tmp_path / "w.clb").read_bytes()
    assert len(good) < 400 and bitstream.load(tmp_path / "w.clb")[0]["w"].shape == (1 << 18,)
    (tmp_path / "w.clb").write_bytes(
        edited(good, lambda header: header["tensors"][0].update(shape=[1 << 32]), deflated=bitstream._FILE.deflated)
    )
    with pytest.raises(InputError, match="more elements than .* bytes may represent"):
        bitstream.load(tmp_path / "w.clb")


def test_m1_has_the_shapes_that_it_says(tmp_path):
    """An .npz whose arrays do not match its configuration is refused as M1."""
    import io

    from compressed_lm.codecs.m1 import M1

    good = m1_model.load_m1("pretrained").to_bytes()
    assert M1.from_bytes(good).hash == m1_model.load_m1("pretrained").hash
    with np.load(io.BytesIO(good)) as archive:
        arrays = dict(archive)
    config = json.loads(arrays["config"].tobytes())
    changes = [
        {"config": config | {"n_layers": 1 << 30}},
        {"config": config | {"context": True}},
        {"config": config | {"d_head": 512}},
        {"layer_0/q": arrays["layer_0/q"][:, :-1]},
        {"layer_0/q": arrays["layer_0/q"].astype(np.int16)},
        {"layer_0/q_shift": np.array(60, np.int32)},
        {"layer_0/q_multiplier": -arrays["layer_0/q_multiplier"]},
        {"extra/q": arrays["layer_0/q"]},
    ]
    for change in changes:
        if "config" in change:
            change = {"config": np.frombuffer(json.dumps(change["config"]).encode(), np.uint8)}
        content = io.BytesIO()
        np.savez_compressed(content, **(arrays | change))
        with pytest.raises(InputError, match="bytes were given as M1's weights"):
            M1.from_bytes(content.getvalue())
