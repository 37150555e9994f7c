"""The errors that milpasses raises for what a person can put right: one clear line each."""


class MilpassesError(ValueError):
    """Something was asked that cannot be done; the message says what, and what would work."""


class TargetError(MilpassesError):
    """The deployment target of the model lacks the form that was asked for."""


class JointError(MilpassesError, NotImplementedError):
    """Two forms cannot be joined in the way that was asked for."""


class PackageError(MilpassesError):
    """A file is not the model that was expected: missing, truncated, foreign or damaged."""
