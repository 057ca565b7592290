"""Objects on real servers: whole or not there, exact ranges, retries, and errors that say what to do."""

import io as stdlib_io
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading

import pytest

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import object_stores, remote, remote_input, store_errors


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Gives up after a second; gcsfs repeats requests without waiting, botocore never does."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    retry = pytest.importorskip("gcsfs.retry")
    monkeypatch.setattr(store_errors, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(remote, "PROBE_SECONDS", 0.5)
    sleep = retry.asyncio.sleep

    class Asyncio:
        def __getattr__(self, name):
            return getattr(asyncio_of_gcsfs, name)

        async def sleep(self, seconds):
            await sleep(0)

    asyncio_of_gcsfs = retry.asyncio
    monkeypatch.setattr(retry, "asyncio", Asyncio())


def test_objects_are_written_read_listed_and_deleted(bucket_url, tmp_path):
    """Content, sizes and names of objects are those that were written, also by another process with its own client."""
    content = random.Random(0).randbytes(3 << 20)
    (tmp_path / "file").write_bytes(content)
    remote.upload(tmp_path / "file", f"{bucket_url}/a/file")
    assert io.write_atomic(f"{bucket_url}/a/b/text", "größer") == 8
    with io.open_output(f"{bucket_url}/a/big name [1] %41#?.bin") as file:
        file.write(b"1")
        file.write(b"23")
    assert remote.sizes(f"{bucket_url}/a") == {"file": 3 << 20, "big name [1] %41#?.bin": 3}
    assert remote.sizes(f"{bucket_url}/a/b/") == {"text": 8} and remote.sizes(f"{bucket_url}/b") == {}
    assert io.read_bytes(f"{bucket_url}/a/b/text").decode() == "größer"
    assert io.read_bytes(f"{bucket_url}/a/big name [1] %41#?.bin") == b"123"
    assert remote.read_range(f"{bucket_url}/a/file", 1, 70_000) == content[1:70_000]
    assert remote.read_range(f"{bucket_url}/a/file", 9, 9) == b""
    remote.delete(f"{bucket_url}/a/file")
    remote.delete(f"{bucket_url}/a/file")
    assert "file" not in remote.sizes(f"{bucket_url}/a")
    object_stores._clients.clear()
    writer = object_stores.client(io.scheme(bucket_url))
    object_stores._clients.clear()
    assert writer is not object_stores.client(io.scheme(bucket_url))
    writer.pipe_file(f"{bucket_url}/a/late", b"x")  # by another process, say: the listing is not a cached one
    assert remote.sizes(f"{bucket_url}/a")["late"] == 1


def test_sizes_and_input_of_local_files(tmp_path):
    """Local files are read and listed by the same functions."""
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "folder").mkdir()
    assert remote.sizes(tmp_path) == {"file": 3} and remote.sizes(tmp_path / "missing") == {}
    with remote.open_input(tmp_path / "file") as file:
        assert file.read() == b"123"
    remote.delete(tmp_path / "file")
    remote.delete(tmp_path / "file")
    assert remote.sizes(tmp_path) == {}


def test_an_object_is_read_ahead_and_at_any_position(bucket_url, monkeypatch):
    """Sequential and random reads give the object's bytes; blocks after two sequential ones are requested ahead."""
    monkeypatch.setattr(remote_input, "FIRST_BYTES", 1000)
    monkeypatch.setattr(remote_input, "BLOCK_BYTES", 5000)
    content = random.Random(1).randbytes(100_001)
    io.write_atomic(f"{bucket_url}/x", content)
    requested, read_range = [], remote.read_range

    def recorded(path, start, stop):
        requested.append((start, stop, threading.current_thread() is threading.main_thread()))
        return read_range(path, start, stop)

    monkeypatch.setattr(remote, "read_range", recorded)
    with remote.open_input(f"{bucket_url}/x") as file:
        assert b"".join(iter(lambda: file.read(777), b"")) == content
        assert sum(stop - start for start, stop, _ in requested) == len(content)  # each byte once
        assert not requested[-1][2] and requested[0] == (0, 1000, True)
        reference, draw = stdlib_io.BytesIO(content), random.Random(2)
        for _ in range(30):
            position, n = draw.randrange(101_000), draw.choice([1, 100, 4000, 9000])
            assert file.seek(position) == reference.seek(position) and file.read(n) == reference.read(n)
        assert file.seek(-5, os.SEEK_END) == len(content) - 5 and file.read() == content[-5:]


@pytest.mark.parametrize("n", [1, 7 << 20])
def test_a_failed_writer_leaves_no_object(bucket_url, n):
    """An exception while an object is written leaves the old object, or none; `fsspec` alone would upload a part."""
    for name, before in (("new", None), ("old", b"before")):
        path = f"{bucket_url}/{name}"
        if before:
            io.write_atomic(path, before)
        with pytest.raises(KeyError), io.open_output(path) as file:
            file.write(bytes(n))
            raise KeyError
        for mode, content in (("wb", bytes(n)), ("w", "a" * n)):
            with pytest.raises(KeyError), io.any_path(path).open(mode) as file:
                file.write(content)
                raise KeyError
            file = io.any_path(path).open(mode)
            file.write(content)
            del file  # never closed
        assert (io.read_bytes(path) if remote.exists(path) else None) == before


@pytest.mark.thinned(3, "clients wait before they try again")
@pytest.mark.parametrize("broken", [[503], [503, 503], [500, "cut"], [429], ["cut"]])
def test_requests_are_retried(bucket_url, proxy, broken, monkeypatch):
    """Reads, ranges, listings and uploads succeed after answers 500, 503 and 429, and after answers that end early."""
    monkeypatch.setattr(store_errors, "PATIENCE_SECONDS", 20.0)
    content = random.Random(3).randbytes(200_000)
    proxy.broken = [action for action in broken if action != "cut"]
    io.write_atomic(f"{bucket_url}/x", content)
    for read in (
        lambda: remote.read_range(f"{bucket_url}/x", 0, len(content)),
        lambda: io.read_bytes(f"{bucket_url}/x"),
        lambda: remote.open_input(f"{bucket_url}/x").read(),
    ):
        proxy.broken = list(broken)
        assert read() == content and not proxy.broken
    proxy.broken = list(broken)
    assert remote.sizes(bucket_url) == {"x": len(content)}


def test_a_block_is_requested_again_at_the_same_offset(bucket_url, proxy, monkeypatch):
    """A failure in the middle of an object neither drops nor repeats bytes."""
    monkeypatch.setattr(remote_input, "FIRST_BYTES", 4096)
    monkeypatch.setattr(remote_input, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(store_errors, "PATIENCE_SECONDS", 20.0)
    content = random.Random(4).randbytes(100_000)
    io.write_atomic(f"{bucket_url}/x", content)
    with remote.open_input(f"{bucket_url}/x") as file:
        start = file.read(10_000)
        proxy.broken = [503, "cut", 503, "cut"]
        assert start + file.read() == content and not proxy.broken


def large(bucket_url):
    """Returns content that is uploaded in several requests: 5 MB and more for gs://, 100 MB and more for s3://."""
    return bytes(6 << 20) if bucket_url.startswith("gs") else bytes(101 << 20)


@pytest.mark.slow("uploads 100 MB")
def test_an_upload_that_breaks_leaves_no_object(bucket_url, proxy, tmp_path):
    """An upload in several requests whose later requests fail leaves no object, and is reported."""
    (tmp_path / "file").write_bytes(large(bucket_url))
    proxy.broken = [None] + [503] * 100
    with pytest.raises(OSError, match="The object store does not answer"):
        remote.upload(tmp_path / "file", f"{bucket_url}/x")
    assert len(proxy.requests) > 2
    proxy.broken = []
    assert remote.sizes(bucket_url) == {}
    remote.upload(tmp_path / "file", f"{bucket_url}/x")
    assert remote.sizes(bucket_url) == {"x": len(large(bucket_url))}


@pytest.mark.slow("starts a process that uploads up to 101 MB")
def test_a_process_that_is_killed_during_an_upload_leaves_no_object(bucket_url, proxy, tmp_path):
    """SIGKILL between two requests of an upload leaves the old object; the next process writes the new one."""
    io.write_atomic(f"{bucket_url}/x", b"before")
    (tmp_path / "file").write_bytes(large(bucket_url))
    proxy.broken = [None] + ["hold"] * 20
    code = "import sys\nfrom compressed_lm.io import remote\nremote.upload(sys.argv[1], sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "file", f"{bucket_url}/x"])
    assert proxy.held.wait(60)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    proxy.broken = []
    assert remote.sizes(bucket_url) == {"x": 6} and io.read_bytes(f"{bucket_url}/x") == b"before"
    remote.upload(tmp_path / "file", f"{bucket_url}/x")
    assert remote.size(f"{bucket_url}/x") == len(large(bucket_url))


@pytest.mark.slow("clients wait before they give up")
def test_a_server_that_is_gone_is_reported(bucket_url, proxy, tmp_path):
    """A server that ends in the middle of a job gives one error with the path, for reading and for writing."""
    io.write_atomic(f"{bucket_url}/x", b"123")
    file = remote.open_input(f"{bucket_url}/x")
    proxy.shutdown()
    proxy.server_close()
    (tmp_path / "file").write_bytes(b"4")
    for call in (
        file.read,
        lambda: io.read_bytes(f"{bucket_url}/x"),
        lambda: remote.upload(tmp_path / "file", f"{bucket_url}/x"),
        lambda: remote.sizes(bucket_url),
        lambda: io.check_output(f"{bucket_url}/y"),
    ):
        with pytest.raises((OSError, InputError), match="The object store does not answer|cannot be read"):
            call()


def test_a_missing_bucket_is_named(bucket_url):
    """Every function reports a bucket that does not exist, or that vanished, and never makes it."""
    missing = f"{io.scheme(bucket_url)}://no-such-bucket/x"
    calls = [
        lambda: io.check_output(missing, "--out"),
        lambda: io.check_output(missing, "--out", folder=True),
        lambda: io.write_atomic(missing, b""),
        lambda: remote.open_input(missing),
        lambda: remote.read_range(missing, 0, 1),
        lambda: remote.sizes(missing),
        lambda: remote.check_readable(missing),
        lambda: io.any_path(missing).exists(),
        lambda: io.any_path(missing).read_text(),
        lambda: io.matching(f"{missing}/*"),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"the bucket \w\w://no-such-bucket does not exist .*Check its name"):
            call()
    io.any_path(missing).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="does not exist"):
        remote.check_readable(missing)


def test_a_missing_object_is_a_missing_file(bucket_url):
    """A missing object raises FileNotFoundError with its path, as a missing file does."""
    for call in (remote.open_input, remote.stat, remote.read_bytes, lambda path: io.any_path(path).read_bytes()):
        with pytest.raises(FileNotFoundError) as caught:
            call(f"{bucket_url}/x")
        assert caught.value.filename == f"{bucket_url}/x"
    with pytest.raises(InputError, match="cannot be read"):
        io.read_bytes(f"{bucket_url}/x")


def test_a_range_that_an_object_does_not_have(bucket_url):
    """A range after the end of an object that was replaced by a shorter one is an error, not fewer bytes."""
    io.write_atomic(f"{bucket_url}/x", b"123")
    for start, stop in ((1, 4), (3, 5), (100, 200)):
        with pytest.raises(OSError, match="The object ends before .* was truncated, or replaced"):
            remote.read_range(f"{bucket_url}/x", start, stop)
    with pytest.raises(ValueError, match="is not a range"):
        remote.read_range(f"{bucket_url}/x", 3, 2)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_names_the_login(bucket_url, proxy, status):
    """Missing or wrong credentials are reported with the command that gets them."""
    for call in (
        lambda: remote.read_bytes(f"{bucket_url}/x"),
        lambda: io.check_output(f"{bucket_url}/x"),
        lambda: io.write_atomic(f"{bucket_url}/x", b""),
        lambda: remote.sizes(bucket_url),
    ):
        proxy.broken = [status] * 100
        with pytest.raises(InputError, match="refuses access .*: run `(gcloud auth|aws configure)"):
            call()


def test_missing_credentials_are_reported(stores, monkeypatch):
    """Without any credentials, s3:// says so before it sends a request."""
    url = stores("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"refuses access \(Unable to locate credentials\).* `aws configure`"):
        io.check_output(f"{url}/x")


def test_outputs_are_checked_before_work(bucket_url):
    """A bucket that can be written passes, and nothing appears in it; an object is no folder, a folder no object."""
    io.check_output(f"{bucket_url}/a/x", "--out")
    io.check_output(f"{bucket_url}/a", "--out", folder=True)
    io.check_output(bucket_url, "--out", folder=True)
    assert remote.entries(bucket_url) == {}
    io.write_atomic(f"{bucket_url}/a/x", b"1")
    io.check_output(f"{bucket_url}/a/x", "--out")
    with pytest.raises(InputError, match="^--out .*/a/x is an object; give a folder"):
        io.check_output(f"{bucket_url}/a/x", "--out", folder=True)
    with pytest.raises(InputError, match="^--out .*/a is a folder; give the object"):
        io.check_output(f"{bucket_url}/a", "--out")
    with pytest.raises(InputError, match="is a bucket; give the object"):
        io.check_output(bucket_url, "--out")


def test_paths_behave_like_local_ones(bucket_url):
    """`epath` paths list, read, write, rename and remove objects, and text is UTF-8."""
    root = io.any_path(bucket_url)
    folder = root / "runs" / "a"
    assert not folder.exists() and not folder.is_dir() and list(root.iterdir()) == []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.txt").write_text("größer\n")
    (folder / "deep" / "y").write_bytes(b"\xff")
    with (folder / "x.txt").open() as file:
        assert list(file) == ["größer\n"]
    assert folder.exists() and folder.is_dir() and (folder / "x.txt").is_file() and not folder.is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "x.txt"]
    assert (folder / "x.txt").stat().length == 9 and (folder / "x.txt").stat().mtime > 1e9
    with pytest.raises(NotADirectoryError):
        list((folder / "x.txt").iterdir())
    with pytest.raises(FileNotFoundError):
        list((folder / "z").iterdir())
    with pytest.raises(FileNotFoundError):
        (folder / "z").unlink()
    folder.rename(root / "runs" / "b")
    assert not folder.exists() and (root / "runs" / "b" / "deep" / "y").read_bytes() == b"\xff"
    walked = [(os.fspath(path), sorted(folders), sorted(files)) for path, folders, files in root.walk()]
    assert walked == [
        (bucket_url, ["runs"], []),
        (f"{bucket_url}/runs", ["b"], []),
        (f"{bucket_url}/runs/b", ["deep"], ["x.txt"]),
        (f"{bucket_url}/runs/b/deep", [], ["y"]),
    ]
    (root / "runs" / "b" / "x.txt").replace(root / "z")
    assert (root / "z").read_text() == "größer\n" and not (root / "runs" / "b" / "x.txt").exists()
    (root / "runs").rmtree()
    assert [path.name for path in root.iterdir()] == ["z"]


def test_markers_of_folders_are_no_files(stores):
    """An empty object `folder/`, by which other programs mark a folder, is neither a file nor left behind.

    (The server of gs:// cannot have such objects.)
    """
    bucket_url = stores("s3")
    for key in ("a/", "a/b/"):
        object_stores.client("s3").call_s3("put_object", Bucket=bucket_url.removeprefix("s3://"), Key=key)
    folder = io.any_path(f"{bucket_url}/a")
    assert folder.is_dir() and remote.sizes(folder) == {} and remote.sizes(bucket_url) == {}
    io.write_atomic(folder / "x", b"1")
    assert remote.sizes(folder) == {"x": 1} and remote.size(folder / "x") == 1
    assert [path.name for path in io.matching(f"{bucket_url}/**", files=True)] == ["x"]
    folder.rmtree()
    assert not folder.exists() and remote.entries(bucket_url) == {}


def test_patterns_match_objects_as_files(bucket_url, tmp_path):
    """A pattern matches the same names in a bucket as in a folder; an existing name wins over the pattern."""
    names = [
        "a/1.txt",
        "a/2.txt",
        "a/b/3.txt",
        "a/b/c/4.txt",
        "a[1]/5.txt",
        "a1/6.txt",
        ".h/7.txt",
        "a/.8.txt",
        "x*y",
        "xzy",
    ]
    for name in names:
        io.write_atomic(tmp_path / name, b"1")
        io.write_atomic(f"{bucket_url}/{name}", b"1")
    patterns = [
        "a/*.txt",
        "a/**/*.txt",
        "**/*.txt",
        "a[1]/*",
        "a?/*",
        "*/*.txt",
        "a/?.txt",
        "x*y",
        "x?y",
        "none*",
        "a/[!1].txt",
        "*",
        "a/1.txt",
        ".h/*",
        "a/**",
        "none/*",
    ]
    for pattern in patterns:
        for files in (True, False):
            local = [str(path.relative_to(tmp_path)) for path in io.matching(tmp_path / pattern, files=files)]
            found = [os.fspath(path) for path in io.matching(f"{bucket_url}/{pattern}", files=files)]
            assert found == [f"{bucket_url}/{name}" for name in local], (pattern, files)


def _read_in_child(path, queue):
    queue.put(io.read_bytes(path))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_paths_and_clients_survive_new_processes(bucket_url, method):
    """A path is pickled, and read in a forked and in a spawned process after the parent used its client."""
    io.write_atomic(f"{bucket_url}/x", b"123")
    path = pickle.loads(pickle.dumps(io.any_path(f"{bucket_url}/x")))
    assert path.read_bytes() == b"123"
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(path, queue))
    child.start()
    assert queue.get(timeout=60) == b"123"
    child.join(60)
    assert child.exitcode == 0


def test_ranges_are_read_by_several_threads(bucket_url):
    """`read_range` returns the right bytes to each of eight threads."""
    content = random.Random(5).randbytes(1 << 20)
    io.write_atomic(f"{bucket_url}/x", content)
    wrong = []

    def read(seed):
        draw = random.Random(seed)
        for _ in range(10):
            start, n = draw.randrange(len(content) - 1000), draw.randrange(1000)
            if remote.read_range(f"{bucket_url}/x", start, start + n) != content[start : start + n]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_tensorflow_changes_nothing(bucket_url):
    """Where TensorFlow is installed, paths still use this layer and not TensorFlow's file system."""
    from etils.epath import gpath

    assert os.environ["EPATH_USE_TF"] == "0" and not gpath._is_tf_installed()
    assert type(io.any_path(f"{bucket_url}/x")._backend).__module__ == "compressed_lm.io.remote_paths"
