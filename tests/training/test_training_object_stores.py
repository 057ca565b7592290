"""Runs in gs:// and s3:// on real servers: trained, interrupted, resumed and read as local ones, bit for bit."""

import contextlib
import json
import os

import pytest

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import remote
from compressed_lm.io.object_stores import client
from compressed_lm.training import load_run, mirror


@pytest.mark.slow("trains models into object stores")
def test_a_run_in_an_object_store_is_the_local_run(bucket_url, small_run, uninterrupted, terminate_at, same_bits):
    """A run that is stopped and resumed in a bucket has the parameters and metrics of an uninterrupted local one."""
    out = f"{bucket_url}/runs/a"
    with pytest.raises(SystemExit):
        small_run(out, trackers=[terminate_at(12)])
    result = small_run(out)
    assert same_bits(result, uninterrupted)
    assert small_run(out).step == result.step  # finished: returned at once
    run = load_run(out)
    assert run.step == 24 and same_bits(run, uninterrupted)
    names = set(remote.entries(f"{out}/checkpoints"))
    assert names == {str(step) for step in sorted(map(int, names))} and len(names) == small_run.config.keep
    metrics = [json.loads(line)["step"] for line in io.read_bytes(f"{out}/metrics.jsonl").splitlines()]
    assert metrics == sorted(metrics) and metrics[-1] == 24


@pytest.mark.slow("trains a model into an object store")
def test_a_damaged_checkpoint_in_an_object_store_is_skipped(bucket_url, small_run, uninterrupted, same_bits):
    """A checkpoint without an object, or with a shorter one, is skipped with a warning for the next older one."""
    out = f"{bucket_url}/runs/a"
    small_run(out)
    newest = f"{out}/checkpoints/24"
    damaged = io.matching(f"{newest}/params/**/d/*", files=True)
    for path in damaged:
        io.write_atomic(path, io.read_bytes(path)[:-9])
    assert damaged
    with pytest.warns(UserWarning, match="The checkpoint of step 24 cannot be read and is skipped"):
        assert load_run(out).step == 20
    with pytest.warns(UserWarning, match="step 24 cannot be read"):
        assert same_bits(small_run(out), uninterrupted)
    assert load_run(out).step == 24


@pytest.mark.slow("trains a model into an object store")
def test_a_bucket_that_vanishes_during_a_run_is_reported(bucket_url, small_run):
    """A run whose bucket is deleted in the middle ends with one paragraph that names the folder."""
    from botocore import exceptions as errors
    from gcsfs import retry

    def delete():
        name, store = bucket_url.partition("://")[2], client(io.scheme(bucket_url))
        remote.delete_tree(f"{bucket_url}/runs")
        if io.scheme(bucket_url) == "s3":
            store.call_s3("delete_bucket", Bucket=name)
        else:
            store.call("DELETE", "b/{}", name)

    class Delete:
        def scalars(self, step, values):
            if step == 12:
                for _ in range(20):  # a checkpoint may still be written in the background
                    with contextlib.suppress(OSError, retry.HttpError, errors.ClientError):
                        return delete()

    with pytest.raises(InputError, match=r"runs/a/checkpoints \(.*\)|bucket .* does not exist") as caught:
        small_run(f"{bucket_url}/runs/a", trackers=[Delete()])
    assert "\n" not in str(caught.value)


def test_an_upload_that_is_not_complete_is_no_checkpoint(stores, tmp_path):
    """A folder without the last object, as a killed upload leaves it, is no checkpoint and is replaced or removed."""
    directory = io.any_path(stores("s3")) / "checkpoints"
    io.write_atomic(directory / "5" / "left", b"1")
    made = mirror.Mirror(directory, keep=2, keep_every=4)

    class Saved:
        def result(self):
            pass

    for step in (4, 5, 6, 7):
        (made.local / str(step) / "d").mkdir(parents=True)
        (made.local / str(step) / "d" / "x").write_text(str(step))
        assert step not in made.steps()
        made.push_when(Saved(), step).result()
        assert made.steps()[0] == step
    assert made.steps() == [7, 6, 4] and set(remote.entries(directory)) == {"4", "6", "7"}
    local = made.local
    made.close()
    assert not local.exists()
    made = mirror.Mirror(directory)
    with made.fetched(6) as copy:
        assert (copy / "6" / "d" / "x").read_text() == "6" and [path.name for path in copy.iterdir()] == ["6"]
    assert not copy.exists()
    io.write_atomic(directory / "4" / "d" / "x", b"44")
    remote.delete(directory / "7" / "d" / "x")
    io.write_atomic(directory / "6" / mirror.DONE, '{"d/../../../x": 1}')
    for step, error in ((7, FileNotFoundError), (4, ValueError), (6, ValueError)):
        with pytest.raises(error), made.fetched(step):
            pass
    made.close()


def test_several_processes_need_a_common_folder(monkeypatch, stores):
    """Checkpoints of several processes are refused in s3://, with the alternatives."""
    monkeypatch.setattr(mirror.jax, "process_count", lambda: 4)
    with pytest.raises(InputError, match="run of 4 processes; in s3:// .* gs://"):
        mirror.Mirror(io.any_path(stores("s3")))


def test_a_missing_bucket_is_reported_before_training(stores, small_run):
    """A run in a bucket that does not exist is refused, and load_run says the same."""
    for scheme in ("gs", "s3"):
        stores(scheme)
        with pytest.raises(InputError, match="bucket .*no-such-bucket does not exist"):
            small_run(f"{scheme}://no-such-bucket/run")
        with pytest.raises(InputError, match="bucket .*no-such-bucket does not exist"):
            load_run(f"{scheme}://no-such-bucket/run")
    assert "TENSORSTORE_GCS_HTTP_URL" in os.environ
