"""The one error that a user is meant to read."""


class InputError(ValueError):
    """Bad input: a config field, a file or an argument that cannot be used.

    The message is one sentence that says what is wrong, where, and what is allowed. The commands
    print it without a traceback and exit with code 2.
    """
