"""Fuzzer of all file formats: a changed file gives a correct result or an explained error.

    python tests/fuzz/fuzz.py --minutes 10            as many cases as possible, over all formats
    python tests/fuzz/fuzz.py --cases 100000          this many
    python tests/fuzz/fuzz.py --format store --case 7 one case again, with its traceback

A case is a format and a number, which determine its change. Each case may use 4 GB of memory and 10 s. Cases that
failed once are kept in kept.txt and are run by every test.
"""

import argparse
import collections
import faulthandler
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib

HERE = pathlib.Path(__file__).resolve().parent
KEPT = HERE / "kept.txt"
MEMORY = 4 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="duration")
    parser.add_argument("--cases", type=int, help="number of cases, over all formats")
    parser.add_argument("--format", help="only the formats whose name contains this")
    parser.add_argument("--case", type=int, help="only this case")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case of each format")
    parser.add_argument("--seconds", type=float, default=10, help="time limit of a case (default %(default)s)")
    parser.add_argument("--kept", action="store_true", help="only the cases in kept.txt")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return drive(arguments, pathlib.Path(folder))


def drive(arguments, folder) -> int:
    """Starts workers until all cases are done; if a worker dies, its last case is reported."""
    counts, failures, skip = collections.Counter(), [], 0
    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    while True:
        before = skip
        left = [] if end is None else ["--minutes", str(max(end - time.monotonic(), 0) / 60)]
        command = [
            sys.executable,
            __file__,
            *sys.argv[1:],
            "--worker",
            json.dumps({"folder": str(folder), "skip": skip}),
        ]
        done = subprocess.run([*command, *left], capture_output=True, text=True)
        last = None
        for line in done.stdout.splitlines():
            kind, _, rest = line.partition("\t")
            if kind == "case":
                last, skip = rest, skip + 1
            elif kind == "counts":
                counts.update(json.loads(rest))
            elif kind == "failed":
                failures.append(json.loads(rest))
                where = [line.split("\n")[0].strip() for line in failures[-1]["traceback"] if "compressed_lm" in line]
                print(f"FAILED {failures[-1]['case']}: {failures[-1]['error']}", *where[-3:], sep="\n    ", flush=True)
        if done.returncode == 0:
            break
        counts["run before a process died"] += skip - before - 1
        reason = done.stderr.strip().splitlines()[-40:]
        failures.append({"case": last, "error": f"the process ended with {done.returncode}", "traceback": reason})
        print(f"FAILED {last}: the process ended with {done.returncode}", *reason, sep="\n", flush=True)
        counts["died"] += 1
        if last is None or counts["died"] > 50:
            break
    print(", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())), flush=True)
    return 1 if failures else 0


def work(arguments) -> int:
    """Runs cases, and prints each one before it runs."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    from formats import formats

    given = json.loads(arguments.worker)
    seeds = pathlib.Path(given["folder"]) / "seeds"
    shutil.rmtree(seeds, ignore_errors=True)
    found = formats(seeds)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="case-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    counts, start = collections.Counter(), time.monotonic()
    expected = {}
    try:
        for number, (name, case) in enumerate(_cases(arguments, found)):
            if number < given["skip"]:
                continue
            if arguments.minutes is not None and time.monotonic() - start > 60 * arguments.minutes:
                break
            if name not in expected:
                expected[name] = _whole(found[name], scratch)
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
            print(f"case\t{name} {case}", flush=True)
            faulthandler.dump_traceback_later(arguments.seconds, exit=True)
            outcome, error = run(found[name], name, case, scratch, expected[name])
            faulthandler.cancel_dump_traceback_later()
            counts[outcome] += 1
            if error:
                lines = traceback.format_exception(error)
                print(
                    f"failed\t{json.dumps({'case': f'{name} {case}', 'error': repr(error)[:500], 'traceback': lines})}"
                )
                if arguments.case is not None:
                    print("".join(lines), file=sys.stderr)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        print(f"counts\t{json.dumps(counts)}", flush=True)
    return 0


def _cases(arguments, found):
    """Yields (format, number) of the cases in order."""
    if arguments.kept:
        for line in KEPT.read_text().splitlines():
            if line and not line.startswith("#"):
                name, _, case = line.rpartition(" ")
                yield name, int(case)
        return
    names = [name for name in found if not arguments.format or arguments.format in name]
    if arguments.case is not None:
        yield from ((name, arguments.case) for name in names)
        return
    given, n = collections.Counter(), 0
    while arguments.cases is None or n < arguments.cases:
        n += 1
        name = min(names, key=lambda k: (given[k] + 1) / found[k].weight)
        yield name, arguments.seed + given[name]
        given[name] += 1


def _whole(form, scratch):
    """Returns the result of an unchanged seed."""
    _write(form.files, scratch)
    return form.read(scratch)


def _write(files, scratch):
    shutil.rmtree(scratch, ignore_errors=True)
    for name, content in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)


def run(form, name, case, scratch, expected):
    """Runs a case; returns its outcome, and the error if it is a failure."""
    import numpy as np

    from compressed_lm.coding.range_coder import CorruptStream
    from compressed_lm.errors import InputError

    rng = np.random.default_rng([zlib.crc32(name.encode()), case])
    target = sorted(form.changes)[int(rng.integers(len(form.changes)))]
    try:
        changed = form.changes[target](rng, form.files[target])
    except UnicodeEncodeError:
        return "skipped", None
    _write({**form.files, target: changed}, scratch)
    if form.after:
        form.after(scratch)
    try:
        result = form.read(scratch)
        if target in form.checked and result != expected:
            raise AssertionError(f"a wrong result after a change of {target}")
        return "read", None
    except (InputError, CorruptStream):
        return "refused", None
    except BaseException as error:  # a panic of a Rust library is not an Exception
        return "failed", error


if __name__ == "__main__":
    sys.exit(main())
