"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Says what was found, what was expected and what to do; the doors print it as one line, without a stack trace."""
