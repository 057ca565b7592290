"""Command `doctor`: prints installed versions, the devices of JAX, and known problems with their fixes."""

import importlib.metadata
import platform
import shutil

from compressed_lm.commands.command import Command
from compressed_lm.formatting import byte_size


def add_arguments(parser):
    del parser


def run(arguments):
    """Prints versions, devices and problems; returns 2 if there is a problem."""
    import jax
    import rich

    from compressed_lm.coding import compiled

    table, problems = _packages()
    rich.print(table)
    problems += _known_pairs()
    free = shutil.disk_usage(".").free
    if free < 2e9:
        problems.append(f"Only {byte_size(free)} are free on this disk; the demo needs 1 GB. Fix: free some space.")
    print(
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; JAX runs on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})."
    )
    print(f"Compiled loops are kept in {compiled.cache_folder() or 'no folder'}.")
    problems += _compiled_loops()
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("No problem found." if not problems else f"{len(problems)} problem(s) found.")
    return 2 if problems else 0


def _packages():
    """Returns a table of the requirements, and the problems found."""
    from packaging.requirements import Requirement
    from rich.table import Table

    problems = []
    table = Table(
        "package", "installed", "wanted", "for", title="compressed_lm " + importlib.metadata.version("compressed_lm")
    )
    for line in importlib.metadata.requires("compressed_lm") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).split('"')[1] if requirement.marker else "base"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        right = version is not None and requirement.specifier.contains(version, prereleases=True)
        if version is not None and not right or version is None and extra == "base":
            problems.append(
                f"{requirement.name} {version or 'is missing'}; expected {requirement.specifier}. Fix: pip "
                f"install '{requirement.name}{requirement.specifier}'"
            )
        table.add_row(
            requirement.name,
            version or "-",
            str(requirement.specifier),
            extra,
            style=None if right else "dim" if version is None and extra != "base" else "red",
        )
    return table, problems


def _compiled_loops() -> list[str]:
    """Returns a problem if compiled loops cannot be kept on disk."""
    from compressed_lm.coding import compiled

    if compiled.cache_folder():
        return []
    return [
        "No folder for compiled loops can be written, so each process compiles again, for up to 15 s. Fix: "
        "set NUMBA_CACHE_DIR to a folder of your own."
    ]


def _known_pairs() -> list[str]:
    """Returns problems of combinations that install but fail when imported."""
    found = []
    installed = {}
    for name in ("apache-beam", "protobuf", "sentencepiece", "tensorflow", "tensorboard"):
        try:
            installed[name] = tuple(int(part) for part in importlib.metadata.version(name).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    if (
        "apache-beam" in installed
        and installed.get("protobuf", (9,)) < (7,)
        and installed.get("sentencepiece", (0,)) >= (0, 2)
    ):
        found.append(
            "apache-beam needs protobuf below 7, and sentencepiece 0.2.3 cannot be imported with it. Fix: pip "
            "uninstall apache-beam; this package does not need it."
        )
    if "tensorflow" in installed and "tensorboard" not in installed:
        found.append(
            "tensorboard is missing, and the metric writers of seqio cannot be imported without it. Fix: pip install "
            "'compressed_lm[corpora]'"
        )
    return found


COMMAND = Command(
    "doctor",
    "print versions, devices and known problems of this installation",
    "compressed-lm doctor",
    add_arguments,
    run,
)
