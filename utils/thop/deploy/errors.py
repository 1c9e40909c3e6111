"""What is wrong with a device, a runtime or measurements of one."""

from ..run import in_few_words


class DeviceError(ValueError):
    """Why there is no such device, runtime or figure, in one line for the reader."""


def unreadable(path: object, error: Exception) -> DeviceError:
    """Say why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return DeviceError(f"{path}: no such file")
    why = error.strerror if isinstance(error, OSError) and error.strerror else in_few_words(error)
    return DeviceError(f"{path} can't be read: {why}")
