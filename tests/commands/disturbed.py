"""Disturbances of every command that writes: kills, full disks and concurrent starts, on small inputs.

python tests/commands/disturbed.py kill --times 100       kill -9 at random moments, run again, compare
python tests/commands/disturbed.py full                   the same on file systems of at most 4 MB that fill up
python tests/commands/disturbed.py twice --times 20       two at once, 0 to 2 s apart
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TINY = ["--set=model.size=nano", "--set=model.d_model=32", "--set=model.n_heads=1", "--set=train.seq_len=32"]
TINY += ["--set=train.batch_size=8", "--set=train.checkpoint_every=5", "--set=train.log_every=5"]


@dataclasses.dataclass(frozen=True)
class Command:
    """Command to disturb.

    Attributes:
        arguments: its arguments, with {out} for the output and {work} for the folder of inputs.
        locked: whether a second one at the same time is refused.
    """

    arguments: str
    locked: bool = True


COMMANDS = {
    "encode": Command("encode {work}/big.txt {out} --codec pieces16-en", locked=False),
    "decode": Command("decode {work}/big.clm {out} --codec pieces16-en", locked=False),
    "build-codec": Command("build-codec bpe(v=400) --corpus text:{work}/text.txt --out {out}"),
    "compile": Command("compile --m1 pretrained --b 9 --out {out}"),
    "compress": Command("compress --corpus json:{work}/many.jsonl --codec pieces16-en --out {out}"),
    "train-m1": Command(
        "train-m1 --corpus json:{work}/docs.jsonl --max_bytes 30000 --out {out} --steps 20 " + " ".join(TINY)
    ),
    "train": Command("train --store {work}/store --out {out} --steps 20 " + " ".join(TINY)),
    "sweep": Command(
        "sweep --corpus text:{work}/text.txt --validation text:{work}/text.txt --max_bytes 60000 "
        "--validation_bytes 6000 --mesh 1,1,1 --codec bytes --size nano --tokens 10steps --seed 0 1 --out {out} "
        + " ".join(TINY[1:])
    ),
    "quantize": Command("quantize {work}/run --format int(b=4,g=16) --out {out}"),
    "pack": Command("pack {work}/run --step 0.25std --out {out}"),
    "unpack": Command("unpack {work}/run.clb --out {out}"),
    "reshape": Command("reshape {work}/run --out {out}"),
    "shrink": Command(
        "shrink {work}/run --keep 0.5 --store {work}/store --out {out} --steps 10 "
        "--set=train.checkpoint_every=5 --set=train.batch_size=8 --set=train.seq_len=32"
    ),
    "import": Command("import {work}/exported --codec bytes --out {out}"),
    "export": Command("export {work}/llama --out {out}"),
    "export-tokenizer": Command("export-tokenizer pieces16-en --out {out}"),
    "weights": Command("weights {work}/run --out {out}.html", locked=False),
    "cram": Command("cram {work}/short.txt --model {work}/run --k 4 --steps 3000 --learning_rate 0.1 --out {out}"),
    "cram-study": Command(
        "cram-study --model {work}/run --corpus text:{work}/text.txt --validation text:{work}/text.txt "
        "--sources natural --lengths 2 4 --k 1 2 --texts 2 --steps 20 --out {out}"
    ),
    "evaluate": Command(
        "evaluate {work}/run --codec bytes --store {work}/store --train_store {work}/store --table {out}",
        locked=False,
    ),
    "report": Command("report {out}", locked=False),
}


def start(name, work, out, *, more=(), env=None):
    """Starts a command in a separate process group."""
    words = [word.format(work=work, out=out) for word in COMMANDS[name].arguments.split()]
    return subprocess.Popen(
        [sys.executable, "-m", "compressed_lm", *words, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **(env or {})},
    )


def finish(process, timeout=300):
    """Waits for a command; returns its status and the end of its stderr."""
    try:
        said = process.communicate(timeout=timeout)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[1]
    return process.returncode, said


def prepare(work):
    """Writes the inputs of the commands."""
    import inspect

    source = inspect.getsource(argparse)
    (work / "text.txt").write_text(source)
    (work / "short.txt").write_text("self")
    (work / "big.txt").write_text(source * 60)
    pieces = [source[i : i + 700] for i in range(0, 60_000, 700)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in pieces)
    (work / "docs.jsonl").write_text(lines)
    (work / "many.jsonl").write_text(lines * 500)

    def run(*words):
        command = [sys.executable, "-m", "compressed_lm", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)

    run("encode", work / "big.txt", work / "big.clm", "--codec", "pieces16-en")
    run("compress", "--corpus", f"json:{work}/docs.jsonl", "--codec", "bytes", "--out", work / "store")
    run("train", "--store", work / "store", "--out", work / "run", "--steps", "30", *TINY)
    llama = ["--set=model.position=rotary", "--set=model.activation=silu", "--set=model.tie_embeddings=False"]
    run("train", "--store", work / "store", "--out", work / "llama", "--steps", "2", *TINY, *llama)
    run("export", work / "llama", "--out", work / "exported")
    run("pack", work / "run", "--step", "0.25std", "--out", work / "run.clb")


def before(name, work, out):
    """Writes the existing output of a command, before it starts."""
    if name == "report":
        out.mkdir()
        row = work / "runs.jsonl"
        if not row.exists():
            code, said = finish(start("evaluate", work, row))
            assert code == 0, said
        shutil.copy(row, out / "runs.jsonl")


_TIMES = (
    "seconds",
    "tokens_per_second",
    "bytes_per_second",
    "input_wait",
    "eta_seconds",
    "mfu",
    "versions",
    "config_hash",
)


def left(out):
    """Returns digests of the files that a command has left, without times; files that contain times are left out."""
    found = {}
    paths = sorted(p for p in out.parent.rglob("*") if p.is_file())
    for path in paths:
        name = str(path.relative_to(out.parent))
        parts = path.relative_to(out.parent).parts
        if "checkpoints" in parts:
            if "tmp" in name:
                found[name] = "left over"
            continue
        content = path.read_bytes()
        if path.suffix in (".jsonl",) or parts[-1].endswith("runs.jsonl") or name == "out" and content[:2] == b'{"':
            rows = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in row.items() if k not in _TIMES} for row in rows]).encode()
        if path.suffix in (".html", ".md", ".gin", ".svg"):
            continue
        found[name] = hashlib.sha256(content).hexdigest()
    for folder in sorted({p.parent for p in out.parent.rglob("checkpoints")}):
        from compressed_lm.training import load_run

        if not any((folder / "checkpoints").iterdir()):
            continue
        if (
            folder.parent.name == "out" and folder.name == "training"
        ):  # the training of shrink: projections are not a run
            continue
        run = load_run(folder)
        import jax
        import numpy as np

        leaves = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(run.params))
        found[f"{folder.name} at step {run.step}"] = hashlib.sha256(leaves).hexdigest()
    return found


def compare(expected, out, what):
    """Returns differences to an undisturbed run, and files that should not be there."""
    found, problems = left(out), []
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            how = (
                "differs" if name in found and name in expected else "is missing" if name in expected else "is too much"
            )
            problems.append(f"{what}: {name} {how}")
    return problems


def kill(work, names, times, seed):
    """Kills commands at random moments and runs them again; returns the problems."""
    chance, problems, counts = random.Random(seed), [], collections.Counter()
    references = {}
    for number in range(times):
        name = names[number % len(names)]
        if name not in references:
            references[name] = _reference(name, work)
        expected, seconds = references[name]
        with tempfile.TemporaryDirectory(prefix="kill-") as folder:
            out = pathlib.Path(folder) / "out"
            before(name, work, out)
            moment = chance.uniform(0.2, 1.0) * seconds
            process = start(name, work, out)
            time.sleep(moment)
            counts["killed" if process.poll() is None else "ended before"] += 1
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            process.communicate()
            if name in ("evaluate",) and out.exists() and out.read_bytes().endswith(b"\n"):
                out.unlink()  # its row was already written
            again = process.returncode == 0 and name in (
                "quantize",
                "unpack",
                "reshape",
                "import",
                "export",
                "export-tokenizer",
                "pack",
            )
            code, said = (0, "") if again else finish(start(name, work, out))
            complete = code == 2 and ("is not empty" in said or "exists" in said)  # it had finished before the kill
            if code != 0 and not complete:
                problems.append(f"{name} killed after {moment:.2f} s of {seconds:.2f}: {code} {said[-600:]}")
            problems += compare(expected, out, f"{name} killed after {moment:.2f} s of {seconds:.2f}")
    print(dict(counts))
    return problems


def _reference(name, work):
    with tempfile.TemporaryDirectory(prefix="whole-") as folder:
        out = pathlib.Path(folder) / "out"
        before(name, work, out)
        began = time.monotonic()
        code, said = finish(start(name, work, out))
        assert code == 0, (name, said)
        return left(out), time.monotonic() - began


def full(work, names, sizes=("64k", "512k", "4m")):
    """Runs commands on small file systems, enlarges these and runs the commands again; returns the problems."""
    problems, counts = [], collections.Counter()
    for name in names:
        expected, _ = _reference(name, work)
        for size in sizes:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="full-"))
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
            try:
                out = folder / "out"
                (folder / "filler").write_bytes(b"x" * 40_000)
                before(name, work, out)
                code, said = finish(start(name, work, out))
                counts["filled up" if code else "fitted"] += 1
                if code and (code != 2 or "Traceback" in said):
                    problems.append(f"{name} on {size}: {code} {said[-800:]}")
                if code:
                    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
                    code, said = finish(start(name, work, out))
                if code != 0:
                    problems.append(f"{name} again after {size}: {code} {said[-800:]}")
                (folder / "filler").unlink()
                problems += compare(expected, out, f"{name} after {size}")
            finally:
                subprocess.run(["umount", folder], check=True)
                folder.rmdir()
    print(dict(counts))
    return problems


def twice(work, names, times, seed, seconds):
    """Starts two of the same command; returns the problems."""
    chance, problems, counts = random.Random(seed), [], collections.Counter()
    for name in names:
        expected, _ = _reference(name, work)
        for _ in range(times):
            with tempfile.TemporaryDirectory(prefix="twice-") as folder:
                out, apart = pathlib.Path(folder) / "out", chance.uniform(0, 2)
                waits = chance.random() < 0.3
                first = start(name, work, out)
                time.sleep(apart)
                began = time.monotonic()
                second = start(name, work, out, more=["--wait"] * waits)
                ended = {}
                while len(ended) < 2 and time.monotonic() - began < 200:
                    for process in (first, second):
                        if process not in ended and process.poll() is not None:
                            ended[process] = time.monotonic() - began
                    time.sleep(0.05)
                results = [finish(process) for process in (first, second)]
                what = f"{name} {apart:.1f} s apart{', waiting' * waits}"
                if any("Traceback" in said for _, said in results):
                    problems.append(f"{what}: a traceback {results}")
                refused = [said for code, said in results if code == 2]
                counts[f"{name}: {sum(code == 0 for code, _ in results)} of 2 succeed"] += 1
                if not any(code == 0 for code, _ in results):
                    problems.append(f"{what}: none succeeds {results}")
                for said in refused:
                    if "is in use" not in said and "is not empty" not in said and "exists" not in said:
                        problems.append(f"{what}: unexpected message {said[-400:]}")
                    if "is in use" in said:
                        loser = next(p for p, (code, _) in zip((first, second), results, strict=True) if code == 2)
                        counts[f"refused within {seconds} s" if ended[loser] < seconds else "refused later"] += 1
                        if ended[loser] > seconds:
                            problems.append(f"{what}: refused after {ended[loser]:.1f} s")
                problems += compare(expected, out, what)
    print(dict(counts))
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "full", "twice"))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5, help="time limit for refusing the second one")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        work = pathlib.Path(folder)
        prepare(work)
        if arguments.what == "kill":
            problems = kill(work, arguments.commands, arguments.times, arguments.seed)
        elif arguments.what == "full":
            problems = full(work, arguments.commands)
        else:
            problems = twice(work, arguments.commands, arguments.times, arguments.seed, arguments.seconds)
    print(*problems, f"{len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
