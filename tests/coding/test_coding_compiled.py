"""Compiled loops work without a writable folder, and other users cannot change their cache."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import compressed_lm
from compressed_lm import cli
from compressed_lm.coding import compiled, folding, parsing, segments

NOBODY = 65534

# What is imported later lies where only root may read, so the compiler is brought to work before.
PROGRAM = """
import logging, os, sys
import compressed_lm, numba, numpy, secrets, tempfile
numba.njit(lambda a: a[1:].copy().sum())(numpy.zeros(3, numpy.uint8))
os.setgroups([]), os.setgid(65534), os.setuid(65534)
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from compressed_lm.coding import bits, compiled, segments
assert compiled.__file__.startswith(sys.argv[1])
assert segments.split(b"A word") == [b"A", b" word"]
assert segments.split(b"Two words") == [b"Two", b" words"]
print(compiled.cache_folder(), sum(segments.ends.stats.cache_hits.values()))
"""


@pytest.fixture
def read_only(tmp_path_factory):
    """Returns a read-only copy of the package that all users can read."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("only root can run a program as another user")
    folder = pathlib.Path("/tmp") / f"compressed_lm-test-{os.getpid()}"
    source = pathlib.Path(compressed_lm.__file__).parent
    shutil.copytree(source / "coding", folder / "compressed_lm/coding", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "caches.py", "errors.py"):
        shutil.copy(source / name, folder / "compressed_lm" / name)
    scratch = folder / "tmp"
    scratch.mkdir()
    scratch.chmod(0o1777)
    yield folder, scratch
    shutil.rmtree(folder)


def run(folder, **settings):
    usual = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    environment = usual | {"HOME": "/nonexistent", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=environment | settings,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow("compiles loops in new processes")
def test_loops_run_for_a_user_without_a_folder(read_only):
    """With a read-only package and no home, the cache of another user is a private temporary folder.

    Compilation is logged only once. Without that folder the loops are compiled by every process.
    """
    folder, scratch = read_only
    first, second = (run(folder, TMPDIR=str(scratch)) for _ in range(2))
    kept = scratch / f"compressed_lm-{NOBODY}"
    assert first[0].startswith("Compiling loops") and str(kept) in first[0] and len(first) == 2
    assert len(second) == 1 and second[0].startswith(str(kept)) and second[0].endswith(" 1")
    assert kept.stat().st_mode & 0o777 == 0o700 and kept.stat().st_uid == NOBODY
    shutil.rmtree(kept)
    kept.mkdir()  # of root: what lies there could be anyone's code
    kept.chmod(0o777)
    lines = run(folder, TMPDIR=str(scratch))
    assert "in every process" in lines[0] and lines[1] == "None 0" and not list(kept.iterdir())


def test_all_loops_of_the_package_are_compiled_in_one_way():
    """No module uses Numba's cache directly, which would raise if no folder can be written."""
    package = pathlib.Path(compressed_lm.__file__).parent
    users = [path.name for path in package.rglob("*.py") if "numba.njit" in path.read_text(encoding="utf-8")]
    assert users == ["compiled.py"]


def test_loops_are_compiled_again_when_another_module_changes():
    """The cache depends on all modules whose loops call each other, so no old loop is used."""
    assert {"folding.py", "parsing.py", "memo.py"} <= {name for name, _, _ in compiled._SOURCES}
    for function in (segments.ends, parsing.parse, folding.fold):
        assert function._cache._cache_file._source_stamp[1] == compiled._SOURCES == compiled._sources()


def test_the_command_line_shows_once_that_loops_are_compiled(capsys):
    """Commands print log messages of the library to standard error, once, also if the root logger has a handler."""
    assert cli.main(["verify", __file__, "--codec=bytes"]) == 0
    root, other = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(other)
    logging.getLogger("compressed_lm").info("Compiling loops")
    root.removeHandler(other)
    assert capsys.readouterr().err.count("Compiling loops") == 1
