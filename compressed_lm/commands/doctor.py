"""Command `doctor`: prints installed versions, the devices of JAX, and known problems with their fixes."""

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

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
    problems += known_pairs(_version)
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
    from rich.table import Table

    table = Table(
        "package", "installed", "wanted", "for", title="compressed_lm " + importlib.metadata.version("compressed_lm")
    )
    wanted = judge(importlib.metadata.requires("compressed_lm") or [], _version)
    for package in wanted:
        table.add_row(
            package.name,
            package.version or "-",
            package.specifier,
            package.extra or "base",
            style={True: None, None: "dim", False: "red"}[package.right],
        )
    used = {package.name for package in wanted if package.version and package.right is not None}
    return table, [
        *version_problems(wanted),
        *conflicts({name: importlib.metadata.requires(name) or [] for name in used}, _version),
    ]


class Wanted(NamedTuple):
    """Requirement of this package, and what is installed.

    Attributes:
        name, specifier: package and versions.
        extra: extra that needs it; "" for the base.
        version: installed version; None if it is absent.
        right: whether the version is right; None if no extra in use needs the package.
    """

    name: str
    specifier: str
    extra: str
    version: str | None
    right: bool | None


def judge(lines: Iterable[str], version: Callable[[str], str | None]) -> list[Wanted]:
    """Returns the requirements with installed versions. An extra is in use if all its packages are installed.

    Args:
        lines: requirements as in the metadata of this package.
        version: installed version of a package by name; None if it is absent.
    """
    from packaging.requirements import Requirement

    found = []
    for line in lines:
        requirement = Requirement(line)
        extra = str(requirement.marker).split('"')[1] if requirement.marker else ""
        found.append((requirement, extra, version(requirement.name)))
    unused = {extra for _, extra, installed in found if extra and installed is None}

    def right(requirement, extra, installed):
        if extra in unused:
            return None
        return installed is not None and requirement.specifier.contains(installed, prereleases=True)

    return [
        Wanted(requirement.name, str(requirement.specifier), extra, installed, right(requirement, extra, installed))
        for requirement, extra, installed in found
    ]


def version_problems(wanted: Iterable[Wanted]) -> list[str]:
    """Returns a problem for each package that is absent or has a wrong version."""
    return [
        f"{package.name} {package.version or 'is missing'}; expected {package.specifier}"
        f"{f' with the extra {package.extra}' if package.extra else ''}. Fix: pip install "
        f"'{package.name}{package.specifier}'"
        for package in wanted
        if package.right is False
    ]


def conflicts(requires: Mapping[str, Iterable[str]], version: Callable[[str], str | None]) -> list[str]:
    """Returns a problem for each package that another one does not accept, such as too new a pyarrow for Apache Beam.

    Args:
        requires: requirements by name of the package that has them.
        version: installed version of a package by name; None if it is absent.
    """
    from packaging.requirements import Requirement

    found = []
    for name, lines in sorted(requires.items()):
        for needed in map(Requirement, lines):
            installed = version(needed.name)
            if installed is None or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            if not needed.specifier.contains(installed, prereleases=True):
                wanted = f"{needed.name}{needed.specifier}"
                found.append(
                    f"{name} {version(name)} needs {wanted}; {installed} is installed. Fix: pip install '{wanted}'"
                )
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiled_loops() -> list[str]:
    """Returns a problem if compiled loops cannot be kept on disk."""
    from compressed_lm.coding import compiled

    if compiled.cache_folder():
        return []
    return [
        "No folder for compiled loops can be written, so each process compiles again, for up to 15 s. Fix: "
        "set NUMBA_CACHE_DIR to a folder of your own."
    ]


def known_pairs(version: Callable[[str], str | None]) -> list[str]:
    """Returns problems of combinations that install but fail when imported."""
    from packaging.version import Version

    found = []
    protobuf, sentencepiece = version("protobuf"), version("sentencepiece")
    if protobuf and sentencepiece and Version(protobuf) < Version("7") and Version(sentencepiece) >= Version("0.2.3"):
        found.append(
            f"sentencepiece {sentencepiece} cannot be imported together with protobuf {protobuf}. Fix: pip install "
            + (
                "'sentencepiece<0.2.3', since Apache Beam needs protobuf below 7"
                if version("apache-beam")
                else "'protobuf>=7'"
            )
        )
    if version("tensorflow") and not version("tensorboard"):
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
