"""The one exception that is meant for users."""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line that says what was wrong and what to do about it. On the command line it
    becomes `error: <message>` on stderr and exit status 2; no traceback is shown.
    """
