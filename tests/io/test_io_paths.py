"""Checks of paths, and atomic replacement of files."""

import json
import os
import socket
import stat
import threading

import pytest

from compressed_lm import codecs, io
from compressed_lm.errors import InputError
from compressed_lm.models.safetensors_files import Tensors

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.parametrize(
    "path", ["gs://b/x", "GS://b/x", "s3://b", "hdfs://n/x", "http://h/x", "simplecache::gs://b", "://x"]
)
def test_a_path_with_a_scheme_is_refused_by_name(path):
    """Paths of object stores are not used as local folders."""
    with pytest.raises(InputError, match=r"^--out .*was given; only local paths.*Give a local path") as error:
        io.local_path(path, "--out")
    assert f"--out {path} was given" in str(error.value)


def test_file_urls_and_empty_paths_say_what_to_give():
    """The error of file:// has the plain path; an empty path is not the working directory."""
    with pytest.raises(InputError, match="Give the plain path, such as /tmp/x"):
        io.local_path("file:///tmp/x")
    with pytest.raises(InputError, match="--out is empty"):
        io.local_path("", "--out")


def test_paths_of_this_machine_stay_and_a_tilde_is_expanded(tmp_path, monkeypatch):
    """A colon or `://` below a folder is a local path; `~` is the home folder unless a file has this name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in ("gs:/b", "./gs://b", "a:b", "-"):
        assert io.local_path(path) == type(tmp_path)(path)
    assert io.local_path("~/runs") == tmp_path / "home" / "runs"
    (tmp_path / "~").touch()
    assert str(io.local_path("~")) == "~"


def test_a_name_comes_before_a_pattern(tmp_path):
    """Files and folders with [ ] * ? in their names are found by name; other patterns are globs."""
    for name in ("a[1].txt", "a1.txt", "x*y.txt", "xzy.txt", "d[1]/1.txt", "d1/2.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return [str(path.relative_to(tmp_path)) for path in io.matching(tmp_path / pattern)]

    assert found("a[1].txt") == ["a[1].txt"] and found("x*y.txt") == ["x*y.txt"]
    assert found("d[1]/*.txt") == ["d[1]/1.txt"] and found("d[12]/*.txt") == ["d1/2.txt"]
    assert found("x?y.txt") == ["x*y.txt", "xzy.txt"] and found("**/2.txt") == ["d1/2.txt"] and found("no*") == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    """An error keeps the old file and leaves no temporary one; a user's own OUT.tmp is not touched."""
    (tmp_path / "out").write_text("old")
    (tmp_path / "out.tmp").write_text("mine")
    with pytest.raises(RuntimeError), io.open_output(tmp_path / "out") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "out").read_text() == "old"
    assert io.write_atomic(tmp_path / "out", "größer") == 8
    assert (tmp_path / "out").read_bytes() == "größer".encode()
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.tmp"]
        and (tmp_path / "out.tmp").read_text() == "mine"
    )


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "new/folder/file"])
def test_any_name_can_be_written(name, tmp_path):
    """The temporary file's name is not too long if the file's is not, and missing folders are made."""
    io.write_atomic(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    """A new file has the permissions of the umask; a replaced one keeps its own."""
    before = os.umask(0o027)
    try:
        io.write_atomic(tmp_path / "new", b"")
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o604)
        io.write_atomic(tmp_path / "old", b"")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")] == [0o640, 0o604]


@pytest.mark.skipif(ROOT, reason="nothing is write-protected for root")
def test_what_is_write_protected_is_not_replaced(tmp_path):
    """A write-protected file is not replaced, although a rename would succeed."""
    (tmp_path / "out").write_text("old")
    (tmp_path / "out").chmod(0o444)
    with pytest.raises(PermissionError):
        io.write_atomic(tmp_path / "out", b"new")
    with pytest.raises(InputError, match="write-protected"):
        io.check_output(tmp_path / "out")
    (tmp_path / "folder").mkdir(mode=0o555)
    with pytest.raises(InputError, match="read-only for this user"):
        io.check_output(tmp_path / "folder" / "out")


@pytest.mark.parametrize("there", [True, False])
def test_a_links_target_is_replaced(there, tmp_path):
    """The link is kept, also if its target is new and in another folder."""
    (tmp_path / "there").mkdir()
    if there:
        (tmp_path / "there" / "target").write_text("old")
    (tmp_path / "link").symlink_to("there/target")
    io.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "target").read_bytes() == b"new"
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["target"]


def received(make, path):
    """Returns the bytes read at the other end of a pipe or socket while a file is written there."""
    found = []
    reader = threading.Thread(target=lambda: found.append(make()))
    reader.start()
    before = os.stat(path)
    assert io.is_stream(path)
    io.write_atomic(path, b"content")
    reader.join(10)
    assert os.path.samestat(before, os.stat(path))  # it is still what it was
    return found[0]


def test_pipes_sockets_and_devices_are_written_into(tmp_path, monkeypatch):
    """Pipes, sockets and devices, and links to them, are written to and not replaced."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        assert received((tmp_path / "pipe").read_bytes, tmp_path / name) == b"content"
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    assert received(lambda: server.accept()[0].makefile("rb").read(), "socket") == b"content"
    server.close()
    (tmp_path / "null").symlink_to(os.devnull)
    io.write_atomic(tmp_path / "null", b"content")
    assert stat.S_ISCHR(os.stat(tmp_path / "null").st_mode) and (tmp_path / "null").is_symlink()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_a_descriptor_is_written_on_from_where_it_is(tmp_path):
    """/dev/fd/N keeps what was written before, as /dev/stdout after `(echo title; command) > file`."""
    with open(tmp_path / "out", "wb", buffering=0) as file:
        file.write(b"title\n")
        (tmp_path / "link").symlink_to(f"/dev/fd/{file.fileno()}")
        for path in (f"/dev/fd/{file.fileno()}", tmp_path / "link"):
            io.write_atomic(path, b"content\n")
        file.write(b"end\n")
    assert (tmp_path / "out").read_text() == "title\ncontent\ncontent\nend\n"


def test_minus_is_the_standard_output(tmp_path, monkeypatch, capsysbinary):
    """`-` makes no file, and earlier output comes first."""
    monkeypatch.chdir(tmp_path)
    print("before")
    io.write_atomic("-", b"\xff content")
    assert capsysbinary.readouterr().out == b"before\n\xff content" and not list(tmp_path.iterdir())
    assert io.is_stdout("-") and io.is_stdout("/dev/stdout") and io.is_stdout("/dev/fd/1")
    assert not io.is_stdout("/dev/fd/2") and not io.is_stdout(tmp_path / "out") and not io.is_stdout(os.devnull)


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    """Both raise an error before any work."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out .* is a folder; give the file"):
        io.check_output(tmp_path, "--out")
    with pytest.raises(InputError, match="is a folder"):
        io.write_atomic(tmp_path, b"")
    with pytest.raises(InputError, match="--out .*file is a file; give a folder"):
        io.check_output(tmp_path / "file", "--out", folder=True)
    for folder in (True, False):
        with pytest.raises(InputError, match="file is a file, not a folder"):
            io.check_output(tmp_path / "file" / "out", "--out", folder=folder)
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        io.read_bytes(tmp_path)
    io.check_output(tmp_path / "new" / "file", "--out")
    assert not (tmp_path / "new").exists()


def test_what_killed_writers_left_can_be_removed(tmp_path):
    """Only temporary files of exactly this file are removed."""
    for name in (".out.0123456789ab.tmp", ".other.0123456789ab.tmp", "out"):
        (tmp_path / name).touch()
    io.remove_temporaries(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.0123456789ab.tmp", "out"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", 7, None, ["x"]])
def test_a_name_inside_a_folder_stays_inside(name, tmp_path):
    """A name from an untrusted file must be a single path component."""
    with pytest.raises(InputError, match="the name of a file in this folder was expected"):
        io.inside(tmp_path, name)


def test_what_is_no_regular_file_is_not_read(tmp_path):
    """Pipes and devices are refused; links to files, as in checkpoint caches, are followed."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(InputError, match="is not a regular file"):
            io.inside(tmp_path, name)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", "missing"):
        assert io.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_folders_of_strangers_neither_leave_nor_hang(target, tmp_path):
    """Codecs and indexes with outside file names, devices or pipes are refused immediately."""
    os.mkfifo(tmp_path / "pipe")
    for header, read in (("codec.json", codecs.load), ("model.safetensors.index.json", Tensors)):
        for name in ("/etc/passwd", "../secret", "pipe"):
            named = {"weight_map": {"x": name}, "format_version": 1, "files": {name: "0"}, "spec": "bytes"}
            (tmp_path / header).write_text(json.dumps(named))
            with pytest.raises(InputError, match="refers to the file|is not a regular file"):
                read(tmp_path)
        (tmp_path / header).unlink()
        (tmp_path / header).symlink_to(target)
        with pytest.raises(InputError, match="is not a regular file"):
            read(tmp_path)
        (tmp_path / header).unlink()
