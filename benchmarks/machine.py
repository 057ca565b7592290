"""Processor of a benchmark, printed with every table, since ratios of speeds differ between processors."""

import os
import pathlib
import platform


def cpu() -> str:
    """Returns the processor model and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model()}, {cores} cores"


def print_cpu() -> None:
    """Prints the processor on one line."""
    print(f"CPU: {cpu()}\n", flush=True)


def _model() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
