"""Command export-tokenizer."""

import pytest

from compressed_lm import codecs
from compressed_lm.cli import main

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["eiw16-word-en", "pieces16-en", "bytes", "lzma(v=256)"])
def test_the_printed_lines_load_the_tokenizer(name, tmp_path, capsys):
    """The two lines that the command prints load a tokenizer with the codec's ids."""
    out = tmp_path / "tokenizer"
    assert main(["export-tokenizer", name, "--out", str(out)]) == 0
    said, *lines = capsys.readouterr().out.splitlines()
    assert all(str(path.relative_to(out)) in said for path in out.rglob("*") if path.is_file())
    assert ("without this package" in said) == (name in ("eiw16-word-en", "bytes"))
    namespace: dict = {}
    exec("\n".join(lines), namespace)
    codec = codecs.create(name) if name in ("bytes", "lzma(v=256)") else codecs.load(name)
    assert len(lines) == 2 and namespace["tokenizer"]("a b")["input_ids"] == codec.encode(b"a b").tolist()


def test_codec_folders_are_exported(tmp_path):
    """A codec that build-codec wrote is exported, also if its folder has the name of a family."""
    codecs.save(codecs.load("eiw16-en"), tmp_path / "gzip")
    assert main(["export-tokenizer", str(tmp_path / "gzip"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_wrong_codecs_and_folders_are_refused(tmp_path, capsys):
    """A spec that needs text, an unknown name and a folder in use are errors that say what to do."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for codec, out, message in (
        ("pieces(v=4096)", "new", "Run `compressed-lm build-codec 'pieces(v=4096)' --out DIR`"),
        ("ac", "new", "Run `compressed-lm build-codec 'ac' --out DIR`"),
        ("gzip(v=3)", "new", "v=3 was given to the codec gzip; expected one of"),
        ("pieces17", "new", "the name of a codec that comes with the package"),
        ("bytes", "full", "is not empty; give a new folder"),
    ):
        assert main(["export-tokenizer", codec, "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
