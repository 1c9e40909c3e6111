"""Running a model without values: a copy of it on tensors that have a shape and no memory, watched by an observer.

``run`` runs it, for real where shapes are not enough; ``Observer`` is what it reports to; ``blank`` builds models
without values. The user's process does not notice, and the model does not either.
"""

from .ambient import collector_paused
from .blank import BlankBuildFailed, blank
from .copier import Replica
from .inputs import as_inputs, as_model
from .light_copy import is_unused, light_copy, own_way_aside
from .nested import instances_in, map_tensors, tensors_in
from .observer import Observer
from .parameters import is_unread, lacks_shapes, look_at, parameter_sizes
from .runner import Drive, Run, in_few_words, run
from .schema import Effects, effects_of
from .torch_private import (
    KNOWS_NODES,
    STORAGES_TELL,
    WeakStorage,
    key_of,
    no_torch_function,
    node_running,
    storage_of,
    whole_batch,
)
from .unwrapping import NotCountable, network_of, unwrap
from .weights import is_weight

__all__ = [
    "KNOWS_NODES",
    "STORAGES_TELL",
    "BlankBuildFailed",
    "Drive",
    "Effects",
    "NotCountable",
    "Observer",
    "Replica",
    "Run",
    "WeakStorage",
    "as_inputs",
    "as_model",
    "blank",
    "collector_paused",
    "effects_of",
    "in_few_words",
    "instances_in",
    "is_unread",
    "is_unused",
    "is_weight",
    "key_of",
    "lacks_shapes",
    "light_copy",
    "look_at",
    "map_tensors",
    "network_of",
    "no_torch_function",
    "node_running",
    "own_way_aside",
    "parameter_sizes",
    "run",
    "storage_of",
    "tensors_in",
    "unwrap",
    "whole_batch",
]  # fmt: skip
