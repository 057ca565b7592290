"""Text per sequential step of M1 on 1 and 8 devices.

    python benchmarks/device_scaling.py --json FILES... [--bytes N] [--devices 1 8] [--rows_per_device N]

The codecs' own schedulers divide the real documents among the batch slots of virtual devices; what is counted are the
steps, rows and padding of `local_devices.work()`. M1 itself does not run, which would take hours on CPU:

- ac: a step is a teacher-forced pass of one batch. Its batches do not depend on M1, so the counts are exact.
- eiw: a step is one byte, or the end of one window, in each slot. The lengths of windows are drawn from a sample of the
  documents that the pretrained M1 encodes first (`--sample`), for each segment; so the counts are estimates. With
  `--check` that sample is also counted with M1 itself and with the drawn lengths, in the same 8 slots.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np

from compressed_lm import codecs
from compressed_lm.codecs import device_windows, local_devices, window_encoder
from compressed_lm.codecs.m1 import VARIABLE
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.pipelines import m1 as m1_model

SPECS = "eiw(b=32,v=256)", "ac(v=256)"
BASELINE = 72.9
"""Bytes per step of eiw(b=32,v=256) on one device in version 0.1.0, whose job encoded 1 MB at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="+", required=True, help="compressed JSON lines with a field `text`")
    parser.add_argument("--bytes", type=float, default=60e6, help="text to divide (default %(default).0f)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rows_per_device", type=int, default=local_devices.rows_per_device())
    parser.add_argument("--sample", type=float, default=1e5, help="bytes that M1 encodes (default %(default).0f)")
    parser.add_argument("--check", action="store_true", help="compare real and drawn window lengths on the sample")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a subprocess: window lengths as JSON
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_counts(arguments, json.loads(arguments.one))))
        return
    lengths = _window_lengths(arguments)
    print(f"eiw(b=32,v=256): {np.mean(lengths):.2f} bytes per window, from {arguments.sample / 1e3:,.0f} kB with M1\n")
    print(f"{'codec':18}{'devices':>8}{'MB':>8}{'steps':>10}{'bytes/step':>12}{'of 1 device':>13}{'padding':>9}")
    ones: dict[str, float] = {}
    for devices in arguments.devices:
        code = [sys.executable, __file__, *sys.argv[1:], "--devices", str(devices), "--one", json.dumps(lengths)]
        run = subprocess.run(
            code, check=True, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
        for spec, (n_bytes, work, rows, padding) in json.loads(run.stdout.splitlines()[-1]).items():
            rate = n_bytes / work
            ratio = rate / ones.setdefault(spec, rate)
            print(
                f"{spec:18}{devices:8}{n_bytes / 1e6:8.1f}{work:10,}{rate:12,.1f}{ratio:12.2f}x{padding / rows:9.1%}",
                flush=True,
            )
    print(f"\nVersion 0.1.0, eiw(b=32,v=256) on one device: {BASELINE} bytes per step.")


def _documents(arguments: argparse.Namespace, n_bytes: float) -> Iterator[bytes]:
    taken = 0
    for path in arguments.json:
        with gzip.open(path) as file:
            for line in file:
                if taken >= n_bytes:
                    return
                document = json.loads(line)["text"].encode()
                taken += len(document)
                yield document


def _window_lengths(arguments: argparse.Namespace) -> list[float]:
    """Returns the mean window length (bytes) of each segment of the sample, and prints the check."""
    codec = codecs.create(SPECS[0], m1=m1_model.load_m1(m1_model.PRETRAINED))
    documents, lengths, before = [], [], local_devices.work()
    for document in _documents(arguments, arguments.sample):
        documents += [document[i : i + 1000] for i in range(0, len(document), 1000)]
    if arguments.check:
        os.environ[VARIABLE] = "devices"
        local_devices.use_rows_per_device(8)
    for document, ids in zip(documents, codec.encode_stream(documents), strict=True):
        lengths.append(4 * len(document) / len(ids))
    if arguments.check:
        real = local_devices.work() - before
        window_encoder._program = lambda config, rules: _Drawn(lengths, rules)
        before = local_devices.work()
        list(codec.encode_stream(documents))
        drawn = local_devices.work() - before
        print(f"{sum(map(len, documents)):,} bytes in 8 slots: M1 {real}, drawn lengths {drawn}")
    return lengths


def _counts(arguments: argparse.Namespace, lengths: list[float]) -> dict:
    """Returns (bytes, steps, rows, padding) of each codec."""
    os.environ[VARIABLE] = "devices"
    jax.config.update("jax_num_cpu_devices", arguments.devices[0])
    local_devices.use_rows_per_device(arguments.rows_per_device)
    m1, counts = m1_model.load_m1(m1_model.PRETRAINED), {}
    assert len(m1.first_table)  # computed with M1; from here on, nothing is
    window_encoder._program = lambda config, rules: _Drawn(lengths, rules)
    local_devices.on_devices = lambda fn: _even_entries
    for spec in SPECS:
        n_bytes, before = 0, local_devices.work()

        def counted() -> Iterator[bytes]:
            nonlocal n_bytes
            for document in _documents(arguments, arguments.bytes):
                n_bytes += len(document)
                yield document

        for _ in codecs.create(spec, m1=m1).encode_stream(counted()):
            pass
        work = local_devices.work() - before
        counts[spec] = n_bytes, work.steps, work.rows, work.padding
    return counts


def _even_entries(constants: object, symbols: np.ndarray) -> np.ndarray:
    """Table entries of symbols of probability one half, in place of M1's."""
    return np.stack([np.zeros(symbols.shape, np.uint32), np.full(symbols.shape, 1 << 15, np.uint32)], axis=-1)


class _Drawn:
    """`device_windows.encode_turns` with window lengths that are drawn instead of M1's, for one encoder.

    A segment has the mean length of a random one of the sample.
    """

    def __init__(self, lengths: list[float], rules: WindowRules) -> None:
        self._random, self._lengths, self._n_limbs = np.random.default_rng(0), np.array(lengths), rules.n_limbs

    def __call__(self, params: object, rows: tuple) -> tuple:
        state, text, moved = rows
        shape = moved.shape
        text = text.reshape(-1, text.shape[-1])
        n_slots, slots = len(text), np.arange(len(text))
        place, depth = (np.array(state[name]).reshape(-1) for name in ("place", "depth"))
        place = place - moved.reshape(-1)
        if "mean" not in state:
            state |= {"mean": self._random.choice(self._lengths, n_slots)}
        mean = np.array(state["mean"]).reshape(-1)
        closed, busy, turn = np.zeros((n_slots, device_windows.TURNS), np.uint8), np.zeros(n_slots, np.int64), 0
        limit = np.array(state.get("limit", mean.astype(int))).reshape(-1)
        while turn < device_windows.TURNS and (text[slots, place] >= 0).any():
            byte = text[slots, place]
            take = (byte >= 0) & (byte < device_windows.MARK) & (depth < limit)
            close = (depth > 0) & ~take
            last = close & (byte == device_windows.MARK)
            busy += byte >= 0
            closed[:, turn] = close * device_windows.CLOSED + last * (device_windows.LAST - device_windows.CLOSED)
            mean[last] = self._random.choice(self._lengths, np.count_nonzero(last))
            drawn = np.maximum((mean + self._random.random(n_slots)).astype(int), 1)
            limit, depth, place = np.where(close, drawn, limit), np.where(close, 0, depth + take), place + take + last
            turn += 1
        state = {"place": place, "depth": depth, "mean": mean, "limit": limit}
        codes = np.zeros((n_slots, device_windows.TURNS, self._n_limbs), np.uint32)
        results = state, place, np.full(n_slots, turn), busy, closed, codes
        return jax.tree.map(lambda array: array.reshape(*shape, *array.shape[1:]), results)


if __name__ == "__main__":
    main()
