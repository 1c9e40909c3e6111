"""Running a model without values: a copy of it on tensors that have a shape and no memory, watched by an observer.

``run`` runs it, for real where shapes are not enough; ``Observer`` is what it reports to; ``blank`` builds models
without values. The user's process does not notice, and the model does not either.
"""

from .alone import alone, environment
from .ambient import collector_paused, modes_aside
from .blank import BlankBuildFailed, blank, built_blank
from .calls import Observer
from .copier import ModelCopy
from .driven import Drive, Driven
from .inputs import NotCountable, as_inputs, as_model, network_of, unwrap
from .module_fields import is_unread, lacks_shapes, look_at, parameter_sizes
from .nested import instances_in, map_tensors, tensors_in
from .runner import Run, in_few_words, run
from .schema import Effects, effects_of, words
from .shape_tensor import is_of_a_signal, is_weight
from .torch_private import (
    KNOWS_NODES,
    STORAGES_TELL,
    WeakStorage,
    element_size,
    key_of,
    no_torch_function,
    node_running,
    storage_of,
    whole_batch,
)
