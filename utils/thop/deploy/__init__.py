"""What counts mean on a device: what its runtime launches, the least time and the expected time, its figures.

Nothing here counts: it is told what the ledgers of ``utils.thop`` have counted. Others use ``deployed``, ``predict``,
``advise``, ``calibrate``, ``training``, ``time_bound`` and ``find_device``.
"""

from .bound import TimeBound, time_bound
from .calibration import Calibration, calibrate
from .changes import advise
from .devices import Device, find_device
from .launches import Deployed, Launch, deployed
from .prediction import Prediction, predict
from .runtimes import DeviceError
from .training import Training, training

__all__ = [
    "Calibration", "Deployed", "Device", "DeviceError", "Launch", "Prediction", "TimeBound", "Training", "advise",
    "calibrate", "deployed", "find_device", "predict", "time_bound", "training",
]  # fmt: skip
