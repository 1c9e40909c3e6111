"""What is wrong with a device, a runtime or measurements of one."""


class DeviceError(ValueError):
    """Why there is no such device, runtime or figure, in one line for the reader."""
