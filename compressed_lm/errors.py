"""The error that a user can cause and mend."""


class InputError(ValueError):
    """Bad input, told in one paragraph: what was given, what was expected, what to do.

    The command line prints the message without a traceback and exits with status 2; libraries may catch it as a
    `ValueError`.
    """
