"""Described TPU devices, for compilation without TPU hardware."""

import importlib.util
import math
import os
import pathlib
import re
import sys
from typing import Any

import jax

from compressed_lm.errors import InputError
from compressed_lm.training.hardware import CHIPS, Chip

GENERATIONS: dict[str, Chip] = {
    chip.topologies[0].partition(":")[0]: chip for chip in CHIPS.values() if chip.topologies
}
"""TPU chips by the name of their generation, such as "v5e"."""

EXAMPLES = tuple(name for chip in GENERATIONS.values() for name in chip.topologies)
_EXPECTED = "expected a generation and its chips in each dimension, {}, such as {}.".format(
    ", ".join(
        f"{chip.torus} for {name}{f' (up to {chip.longest})' if chip.longest else ''}"
        for name, chip in GENERATIONS.items()
    ),
    ", ".join(EXAMPLES),
)

# libtpu reads these when it is loaded, at the first topology.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the metadata server for the TPU of this machine
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile, because none uses a TPU
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any known name; otherwise libtpu prints a warning
    "TPU_LOG_DIR": "disabled",  # otherwise libtpu writes logs to /tmp
    "TPU_STDERR_LOG_LEVEL": "3",
}


def library() -> pathlib.Path | None:
    """Returns the file of libtpu, or None if there is none.

    It is the file in TPU_LIBRARY_PATH, the package libtpu, or the copy that `make test` puts into the folder "tpu" of
    the environment. The copy is not importable, because JAX loads an importable libtpu in every program, and libtpu
    prints warnings without a TPU.
    """
    named = os.environ.get("TPU_LIBRARY_PATH")
    package = importlib.util.find_spec("libtpu")
    installed = package.submodule_search_locations if package else None
    folders = [*(installed or ()), pathlib.Path(sys.prefix, "tpu", "libtpu")]
    files = [*([named] if named else ()), *(pathlib.Path(folder, "libtpu.so") for folder in folders)]
    return next((pathlib.Path(file) for file in files if pathlib.Path(file).is_file()), None)


def tpu_devices(name: str) -> list[jax.Device]:
    """Returns the described devices of a TPU topology.

    Use them for a mesh, shardings, `lower` and `compile`. Afterwards JAX runs on the CPU, unless it already runs on
    another backend, and the unset variables of `ENVIRONMENT` are set.

    Args:
        name: generation and number of chips in each dimension, such as "v5e:4x4".

    Raises:
        InputError: libtpu is not installed, there is no such topology, or libtpu cannot start in this process.
    """
    generation, _, layout = name.lower().partition(":")
    sizes = [int(size) for size in layout.split("x")] if re.fullmatch(r"\d+(x\d+)+", layout) else []
    chip = GENERATIONS.get(generation)
    if chip is None or len(sizes) != chip.torus or max(sizes) > (chip.longest or math.inf):
        raise InputError(f"The TPU topology {name!r} was given; {_EXPECTED}")
    file = library()
    if file is None:
        raise InputError(
            f"Compiling for {name} needs libtpu, the TPU compiler, which is not installed. Install it (no TPU needed, "
            'but Linux on x86): pip install "compressed_lm[tpu]".'
        )
    os.environ["TPU_LIBRARY_PATH"] = str(file)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    if not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": [min(size, 2) for size in sizes[:2]] + [1]}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # as on Google Cloud: the two cores are one device
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name.lower(), **options).devices
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0]
        if "INVALID_ARGUMENT" in message:
            raise InputError(f"The TPU topology {name!r} was given; {_EXPECTED} libtpu says: {message}") from error
        raise InputError(
            f"libtpu cannot start for {name} ({message}). Start a new process with JAX_PLATFORMS=cpu in its "
            "environment, and use no TPU in it before."
        ) from error
    return list(devices)
