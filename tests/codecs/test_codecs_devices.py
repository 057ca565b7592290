"""The coder gives the same bits on any number of devices, and on the host."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import hashlib, jax, os
os.environ["COMPRESSED_LM_M1"] = {engine!r}
jax.config.update("jax_num_cpu_devices", {devices})
jax.config.update("jax_enable_x64", {x64})
import pathlib
from make_m1 import TEXT
from compressed_lm import codecs
m1 = codecs.M1.from_bytes(pathlib.Path({weights!r}).read_bytes())
documents = [TEXT[:n] for n in (0, 1, 63, 64, 65, 200, 333)] + [bytes(range(256))]
digest = hashlib.sha256()
for spec in ("ac(v=256)", "eiw(align=word,b=24,v=256)"):
    codec = codecs.create(spec, m1=m1)
    ids = codec.encode_batch(documents)
    assert codec.decode_batch(ids) == documents
    for i in ids:
        digest.update(i.tobytes())
print("DIGEST", jax.local_device_count(), digest.hexdigest())
"""


@pytest.mark.slow("compiles M1 for each number of devices")
def test_one_two_and_eight_devices_and_float64_agree(m1, tmp_path):
    """Tokens are bit-identical on the host, on 1, 2 and 8 virtual devices and with 64-bit types, and they decode."""
    (tmp_path / "m1.npz").write_bytes(m1.to_bytes())
    digests = {}
    for engine, devices, x64 in (
        ("host", 1, False),
        ("devices", 1, False),
        ("devices", 2, False),
        ("devices", 8, True),
    ):
        code = SCRIPT.format(
            **dict(tests=os.path.dirname(__file__), weights=str(tmp_path / "m1.npz")),
            **dict(engine=engine, devices=devices, x64=x64),
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
        assert run.returncode == 0, run.stderr[-2000:]
        _, count, digests[engine, devices, x64] = next(
            line for line in run.stdout.splitlines() if line.startswith("DIGEST")
        ).split()
        assert int(count) == devices
    assert len(set(digests.values())) == 1, digests
