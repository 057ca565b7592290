"""Ctrl-C ends a command wherever it arrives."""

import _thread
import functools
import sys
import threading

_AGAIN_SECONDS = 0.05


@functools.cache  # once for a process
def catch_all() -> None:
    """Makes Ctrl-C count where Python would drop it.

    KeyboardInterrupt is raised in whatever the main thread does just then. In a callback of the garbage collector or of
    a weak reference, which JAX has many of, Python prints it as ignored and the program goes on. Here it comes again.
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
