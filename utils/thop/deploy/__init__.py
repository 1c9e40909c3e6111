"""What counts mean on a device: its published figures, the least time that it can take, this machine's own speed.

Nothing here counts: it is told what the ledgers of ``utils.thop`` have counted. Others use ``time_bound`` and
``find_device``.
"""

from .bound import TimeBound, time_bound
from .devices import Device, DeviceError, find_device

__all__ = ["Device", "DeviceError", "TimeBound", "find_device", "time_bound"]
