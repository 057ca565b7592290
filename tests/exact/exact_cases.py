"""One process of `test_exact_settings`: computes M1's tables in every way, and encodes and decodes files.

    python tests/exact/exact_cases.py NAME N_DEVICES FOLDER

It prints one line of JSON: the settings of the process, and a SHA-256 for each way.
"""

import hashlib
import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from exact_golden import SMALL, digest, golden_inputs, golden_model

from compressed_lm import codecs
from compressed_lm.codecs import encoded_file
from compressed_lm.codecs.m1 import VARIABLE
from compressed_lm.coding import tables
from compressed_lm.exact import device

DOCUMENT = b"Bits do not depend on the machine; das ist gut so. " * 6 + bytes(range(256))
SPECS = {"ac": "ac(v=256)", "eiw": "eiw(b=24,v=256)"}


def table_digests(params, n_devices: int, *, every_way: bool) -> dict[str, str]:
    """Returns {way: SHA-256 of the tables of 64 rows of 64 positions}."""
    inputs = golden_inputs(SMALL, 64)
    to_tables = lambda logits: tables.frequencies(device.weights_of(logits), xp=jnp)  # noqa: E731
    forward = lambda p, x: to_tables(device.forward(p, SMALL, x))  # noqa: E731
    run = lambda x: np.asarray(jax.jit(forward)(params, x))  # noqa: E731

    def step(p, x, position, cache):
        logits, cache = device.step(p, SMALL, x, jnp.full_like(x, position), cache)
        return to_tables(logits), cache

    def cached(step, length):
        cache, steps = device.init_cache(SMALL, 64, 64), []
        for position in range(length):
            freqs, cache = step(params, jnp.asarray(inputs[:, position]), jnp.int32(position), cache)
            steps.append(np.asarray(freqs))
        return np.stack(steps, axis=1)

    mapped = jax.pmap(forward, in_axes=(None, 0), devices=jax.devices()[:n_devices])
    ways = {"devices": np.asarray(mapped(params, inputs.reshape(n_devices, -1, 64))).reshape(64, 64, -1)}
    if every_way:
        ways["batch 64"] = whole = run(inputs)
        ways["cached"] = cached(jax.jit(step), 64)
        ways["batch 1"] = np.concatenate([run(inputs[i : i + 1]) for i in range(64)])
        sevens = np.concatenate([inputs, inputs[:6]])
        ways["batch 7"] = np.concatenate([run(sevens[i : i + 7]) for i in range(0, 70, 7)])[:64]
        ways["lengths"] = np.concatenate([run(inputs[:, :17]), whole[:, 17:]], axis=1)
        with jax.disable_jit():
            ways["no jit"] = np.asarray(forward(params, jnp.asarray(inputs)))
            ways["cached, no jit"] = np.concatenate([cached(step, 3), whole[:, 3:]], axis=1)
    return {way: digest(freqs) for way, freqs in ways.items()}


def main() -> None:
    name, n_devices, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", n_devices)
    params = golden_model(SMALL)
    encoded = {}
    for family, spec in SPECS.items():
        if name == "loose" and family == "eiw":
            continue  # fast math and precision only affect the tables, which both families share
        codec = codecs.create(spec, m1=codecs.M1(params, SMALL))
        os.environ[VARIABLE] = "devices"
        content = encoded_file.encode_file(DOCUMENT, codec)
        (folder / f"{name}.{family}").write_bytes(content)
        encoded[family] = hashlib.sha256(content).hexdigest()
        for path in folder.glob(f"*.{family}"):  # its own file and those of earlier processes
            for engine in ("devices", "host"):
                os.environ[VARIABLE] = engine
                assert encoded_file.decode_file(path.read_bytes(), codec, name=str(path)) == DOCUMENT
        assert encoded_file.encode_file(DOCUMENT, codec) == content  # on the host
    ways = table_digests(params, n_devices, every_way=name == "default")
    settings = {
        "devices": jax.local_device_count(),
        "float64": jax.config.jax_enable_x64,
        "precision": jax.config.jax_default_matmul_precision,
    }
    print(json.dumps({"settings": settings, "tables": ways, "files": encoded}))


if __name__ == "__main__":
    main()
