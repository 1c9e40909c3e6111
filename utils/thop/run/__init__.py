"""Running a model without values: a copy of it on tensors that have a shape and no memory, watched by an observer.

``run`` runs it, for real where shapes are not enough; ``Observer`` is what it reports to; ``blank`` builds models
without values. The user's process does not notice, and the model does not either.
"""

from .blank import BlankBuildFailed, blank
from .ambient import collector_paused
from .copier import NotCountable, Replica, unwrap
from .modes import storage_of
from .observer import Observer
from .runner import Run, in_few_words, run
from .schema import Effects, effects_of
from .shape_tensor import tensors_in

__all__ = [
    "BlankBuildFailed", "Effects", "NotCountable", "Observer", "Replica", "Run", "blank", "collector_paused",
    "effects_of", "in_few_words", "run", "storage_of", "tensors_in", "unwrap",
]  # fmt: skip
