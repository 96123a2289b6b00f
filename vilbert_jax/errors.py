"""The one exception that means: what you gave us cannot be used, and here is what to do about it."""


class InputError(ValueError):
    """Bad input from the user: a path, a config value, a file's contents.

    The message says what was found, what was expected and what to do. Command lines print it without a
    traceback and exit with code 2.
    """
