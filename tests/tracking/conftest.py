"""Object store for tests: whole objects only, as in gs://."""

import pytest
from etils import epath
from etils.epath import gpath
from etils.epath.backend import os_backend


class Bucket(type(os_backend)):
    """Object store in a folder that refuses to append or rename, and counts writes."""

    def __init__(self, folder):
        self.folder, self.writes = folder, 0

    def _local(self, path):
        path = self.folder / str(path).removeprefix("gs://")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def open(self, path, mode):
        if mode not in ("r", "rb", "w", "wb"):
            raise NotImplementedError(f"{path}: an object store cannot open with mode {mode!r}")
        self.writes += mode.startswith("w")
        return super().open(self._local(path), mode)

    def exists(self, path):
        return super().exists(self._local(path))

    def makedirs(self, path, *, exist_ok=False, mode=None):
        pass

    def replace(self, path, dst):
        raise NotImplementedError(f"{path}: an object store cannot rename")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The object store behind `gs://` paths in a test."""
    bucket = Bucket(tmp_path)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
    assert epath.Path("gs://any/object")._backend is bucket
    return bucket
