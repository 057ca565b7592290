"""Errors of the package."""


class InputError(ValueError):
    """Error caused by user input.

    The message is one paragraph: what was given, what was expected, what to do. The command line prints it without a
    traceback and exits with status 2. Libraries may catch it as a `ValueError`.
    """


class CorruptStream(ValueError):
    """Ids or bytes that no encoder writes: truncated or changed data, or data of another codec."""
