"""Safe reader of untrusted NumPy files: sizes are checked before memory is allocated, and nothing is unpickled."""

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.lib import format as npy

from compressed_lm.io import limits


def read_arrays(content: bytes) -> Mapping[str, np.ndarray]:
    """Returns the arrays of an .npz file, by name.

    Raises:
        ValueError: this is not an .npz file, it is damaged, or its arrays are larger than `limits.expanded` allows.
    """
    most = limits.expanded(len(content))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most:
                raise ValueError(
                    f"its arrays have {total:,} bytes; at most {most:,} are read from a file of {len(content):,} bytes "
                    f"({limits.HELP})"
                )
            return {member.filename.removesuffix(".npy"): read_array(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is not an .npz file, or is damaged ({error})") from error
    except Exception as error:  # such as zlib.error
        raise ValueError(str(error)) from error


def read_array(content: bytes) -> np.ndarray:
    """Returns the array of an .npy file.

    Raises:
        ValueError: this is not an .npy file, it holds Python objects, or its size does not match its header.
    """
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
    except Exception as error:  # NumPy raises many types here
        raise ValueError(f"it has no .npy header ({error})") from error
    count = math.prod(shape)
    if dtype.hasobject or dtype.itemsize == 0 or count * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"its header says {dtype} and {shape}, and {len(content) - file.tell():,} bytes follow")
    values = np.frombuffer(content, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")
    return values.copy()
