"""The state of a model, to be compared before and after a count."""

import random
from typing import Any

import numpy
import torch
from torch import nn


def state(model: nn.Module) -> Any:
    """Everything of a model that measuring must not change."""
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    modules = [(type(m), m.training, list(m.__dict__), list(m._forward_hooks.values())) for m in model.modules()]
    numpy_state: Any = numpy.random.get_state()
    return [tensors, modules, torch.get_rng_state(), random.getstate(), numpy_state[1].tolist()]


def assert_same_state(model: nn.Module, before: Any) -> None:
    tensors, modules, torch_random, python_random, numpy_random = state(model)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensors[k], before[0][k]) for k in tensors)
    assert modules == before[1]
    assert torch.equal(torch_random, before[2]) and python_random == before[3] and numpy_random == before[4]
