"""What can go wrong, by what the user can do about it.

Every error carries one sentence that names the thing (path, channel, model) and says what to do next. The command
line prints that sentence and leaves with `exit_code`; anything that is not a `CellinferError` is a bug and shows
its traceback.
"""


class CellinferError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 2


class InputError(CellinferError):
    """The input (folder, file name pattern, channel, table, option) is not usable."""


class ImageError(InputError):
    """One image cannot be read, or is not an image of the kind asked for: its field is quarantined."""


class ModelError(CellinferError):
    """A model file or its card is missing, altered or not understood."""


class DeviceError(CellinferError):
    """The device asked for is not there, or the network engine does not support it."""


class EngineError(CellinferError):
    """The network could not be run on a field, most often for lack of memory: the field can be tried again."""


class OutputError(CellinferError):
    """Results cannot be written (permission, space, or another run owns the folder)."""
