"""The one exception that stands for a user's mistake."""


class PhinError(ValueError):
    """Bad input: one line that names the value and the fix. The command line prints it and exits with 2."""
