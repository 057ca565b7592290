"""Train language models over compressed text, weights and input vectors.

Dimension letters used in every docstring: B batch, L length, V vocabulary, D width (d_model), H heads, K head width
(d_head), F feed-forward width, W window.
"""

__version__ = "0.2.0"

import glob as _glob
import os as _os

if not _glob.glob("/dev/accel*") and not _glob.glob("/dev/vfio/*"):
    # Without a TPU, libtpu (installed for dry runs) complains in ten lines that it cannot find out which TPU this is.
    # JAX loads it at the first use of a device, so this is early enough, and it costs no import of JAX.
    _os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    _os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
