"""Caches of compiled programs: other users cannot write machine code into them."""

import os
import pathlib

import pytest

from compressed_lm import caches


def test_a_folder_that_others_may_write_is_not_used(tmp_path):
    """Compiled code is read only from a folder that belongs to the user, is closed to others and is no link."""
    found = caches.private_folder(tmp_path)
    assert found == tmp_path / f"compressed_lm-{os.getuid()}" and found.stat().st_mode & 0o777 == 0o700
    assert caches.private_folder(tmp_path) == found
    found.chmod(0o770)
    assert caches.private_folder(tmp_path) is None
    found.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    found.symlink_to(tmp_path / "elsewhere")
    assert caches.private_folder(tmp_path) is None
    assert caches.private_folder(tmp_path / "missing") is None


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """A cache folder and a temporary folder, without other settings."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(scratch))
    return tmp_path / "cache" / "compressed_lm", scratch / f"compressed_lm-{os.getuid()}"


def test_xla_keeps_its_programs_per_user(homes, monkeypatch):
    """The cache of XLA is in a private folder of the user.

    It is in the cache folder, else in the temporary one, and never in a folder that others may write. A folder that the
    user chose is left to JAX.
    """
    usual, temporary = homes
    assert caches.xla() == usual / "xla" and (usual / "xla").stat().st_mode & 0o777 == 0o700
    usual.chmod(0o777)
    assert caches.xla() == temporary / "xla"
    temporary.chmod(0o770)
    assert caches.xla() is None
    usual.chmod(0o700)
    (usual / "xla").chmod(0o702)
    assert caches.xla() is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/anywhere")
    assert caches.xla() is None


def test_a_home_that_cannot_be_made_is_no_error(homes, monkeypatch, tmp_path):
    """If the cache folder cannot be created, the temporary one is used."""
    pathlib.Path(tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert caches.xla() == homes[1] / "xla"
