"""Exceptions whose message is one clear line for the person at the command line."""


class EpsweepError(Exception):
    """Base of all errors that a user can mend; the message names the field, the value and the remedy."""


class InputError(EpsweepError):
    """A specification, an argument or a matrix that cannot be used as given."""


class StoreError(EpsweepError):
    """A result store that cannot be opened, extended or written."""


class Interrupted(EpsweepError):
    """A run was asked to stop and did, with everything finished written."""
