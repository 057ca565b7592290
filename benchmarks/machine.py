"""The processor that a benchmark runs on, printed with every table, since ratios of speeds differ by processor."""

import os
import pathlib
import platform


def cpu() -> str:
    """Model of the processor and the number of its cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model()}, {cores} cores"


def print_cpu() -> None:
    """Print the processor as a line of its own."""
    print(f"CPU: {cpu()}\n", flush=True)


def _model() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
