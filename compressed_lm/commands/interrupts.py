"""Ctrl-C handling inside callbacks."""

import _thread
import functools
import sys
import threading

_AGAIN_SECONDS = 0.05


@functools.cache  # once per process
def catch_all() -> None:
    """Raises KeyboardInterrupt again if Python ignored it.

    Python raises KeyboardInterrupt in the code that the main thread runs at that moment. In a callback of the garbage
    collector or of a weak reference, of which JAX has many, Python prints the exception as ignored and continues. The
    hook then interrupts the main thread again.
    """
    before = sys.unraisablehook

    def hook(unraisable):
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
        elif not sys.is_finalizing():
            again = threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main)
            again.daemon = True
            again.start()

    sys.unraisablehook = hook
