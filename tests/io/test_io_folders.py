"""Atomic writes of folders."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import folders


def test_a_folder_appears_whole(tmp_path):
    """The folder appears only after the block, complete, with the permissions of the umask."""
    with folders.new(tmp_path / "out", "The folder") as new:
        (new / "a").write_text("1")
        (new / "sub").mkdir()
        (new / "sub" / "b").write_text("2")
        assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "out", "sub"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_error_leaves_nothing(tmp_path):
    """If the block fails, neither the folder nor a temporary one is left."""
    with pytest.raises(KeyboardInterrupt), folders.new(tmp_path / "x" / "out", "The folder") as new:
        (new / "a").write_text("1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_not_touched(tmp_path):
    """A non-empty folder is refused; an empty one is used, and a link to one stays a link."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("1")
    with (
        pytest.raises(InputError, match="full was given as the folder and is not empty; give a new folder"),
        folders.new(tmp_path / "full", "The folder"),
    ):
        pass
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with folders.new(tmp_path / "link", "The folder") as new:
        (new / "a").write_text("1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "a").read_text() == "1"


def test_a_killed_writer_is_forgotten(tmp_path):
    """Temporary folders and files of killed writers are removed by the next attempt; those in use are kept."""
    program = """
import os, pathlib, signal, sys
from compressed_lm import io
from compressed_lm.io import folders
with folders.new(sys.argv[1] + "/out", "The folder") as new, io.open_output(sys.argv[1] + "/file") as file:
    (new / "a").write_text("half")
    file.write(b"half"); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 2
    (tmp_path / ".out.mine.tmp").write_text("not ours")
    (tmp_path / "out.tmp").write_text("not ours")
    with io.open_output(tmp_path / "file") as writing:
        writing.write(b"1")
        io.write_atomic(tmp_path / "file", b"2")  # by another thread, say
    with folders.new(tmp_path / "out", "The folder") as new:
        (new / "a").write_text("whole")
    assert (tmp_path / "file").read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == [".out.mine.tmp", "file", "out", "out.tmp"]


def test_a_folder_that_cannot_be_replaced_is_filled(tmp_path, monkeypatch):
    """A mount point gets the files inside it, and no temporary files are left."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: pathlib.Path(path) == out)
    inode = out.stat().st_ino
    with folders.new(out, "The folder") as new:
        (new / "a").write_text("1")
    assert os.listdir(out) == ["a"] and out.stat().st_ino == inode
