"""NumPy files of strangers: sizes are checked before memory is asked for, and nothing is unpickled."""

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.lib import format as npy

from compressed_lm.io import limits


def read_arrays(content: bytes) -> Mapping[str, np.ndarray]:
    """The arrays of an .npz file, by name.

    Raises:
        ValueError: it is none, is damaged, or its arrays have more bytes than `limits.expanded` allows.
    """
    most = limits.expanded(len(content))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most:
                raise ValueError(
                    f"its arrays have {total:,} bytes, and of a file of {len(content):,} bytes at most {most:,} are "
                    f"read ({limits.HELP})"
                )
            return {member.filename.removesuffix(".npy"): read_array(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no .npz file, or damaged ({error})") from error
    except Exception as error:  # zlib has its own
        raise ValueError(str(error)) from error


def read_array(content: bytes) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        ValueError: it is none, holds Python objects, or another number of bytes than its header says.
    """
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
    except Exception as error:  # NumPy raises many kinds here
        raise ValueError(f"it has no header of an .npy file ({error})") from error
    count = math.prod(shape)
    if dtype.hasobject or dtype.itemsize == 0 or count * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"its header says {dtype} and {shape}, and {len(content) - file.tell():,} bytes follow")
    values = np.frombuffer(content, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")
    return values.copy()
