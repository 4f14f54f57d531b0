"""The exception for mistakes that a user can correct."""


class UserError(Exception):
    """Says what was found, what was expected and what to do; commands print it as one line, without a stack trace."""
