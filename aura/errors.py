"""Every error the project raises on purpose, in one tree.

A leaf also derives from the built-in that fits, so code that knows nothing of AURA can still catch it. A message
says what was found, what was expected, and what to do.
"""


class AuraError(Exception):
    """Root of all errors raised on purpose; the command line turns it into one sentence and exit code 2."""


class InvalidInputError(AuraError, ValueError):
    """A value, shape or dtype that the function cannot take."""


class RecipeError(AuraError, ValueError):
    """The recipe is wrong: an unknown field, or a value outside its range."""


class RejectedImageError(AuraError, ValueError):
    """A source image that cannot be used; becomes a row in rejects, never a failed run.

    Attributes:
        reason: a stable short code for grouping, such as ``truncated`` or ``too_many_pixels``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["RejectedImageError"], tuple[str, str]]:
        """Pickle both arguments, since the error crosses process borders."""
        return type(self), (self.reason, str(self))


class MissingFileError(AuraError, FileNotFoundError):
    """A file, folder, bucket or dataset that is not there."""


class EmptyCorpusError(AuraError, ValueError):
    """A corpus in which nothing can be used."""


class StorageError(AuraError, OSError):
    """The storage refused: full, unreachable, or answering with errors after all retries."""


class StorageAccessError(AuraError, PermissionError):
    """The storage refused the credentials."""


class ForbiddenHostError(StorageAccessError):
    """A server of the web that is not asked: at a link-local address, or a cloud's metadata service."""


class DatasetConflictError(AuraError, FileExistsError):
    """The dataset was made by another recipe, or somebody else is writing it."""


class LeaseHeldError(DatasetConflictError):
    """Another run is writing the dataset."""


class LeaseLostError(DatasetConflictError):
    """Another run has taken the dataset over; this one may not write any more."""


class IntegrityError(AuraError, ValueError):
    """Stored bytes differ from their digest, or a table contradicts another."""


class GateError(AuraError, RuntimeError):
    """A quality gate of the recipe failed."""


class UnknownCameraError(AuraError, LookupError):
    """No sensor profile has this name."""


class NoiseUnavailableError(AuraError, LookupError):
    """The camera has no noise calibration and no generic model was asked for."""


class WeightsError(AuraError, ValueError):
    """A weights file that is missing, damaged, or made for another architecture."""


class DevelopmentError(AuraError, RuntimeError):
    """A raw developer that is not installed, or that failed on a file."""
