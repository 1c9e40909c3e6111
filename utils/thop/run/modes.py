"""The dispatch mode of a run for real, and what both modes have in common: every ATen operator passes through one."""

import weakref
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .blame import is_of_a_kernel
from .nested import map_tensors, tensors_in
from .schema import Effects, effects_of
from .shape_tensor import NeedsValues, ShapeTensor, device_of, in_few_words, lacks_values
from .torch_private import autocast_is_on, key_of, no_torch_dispatch, no_torch_function, storage_of, take_apart
from .unwrapping import NotCountable
from .weights import pass_on

_DRAWN_LIKE = {"aten::rand_like": Tensor.uniform_, "aten::randn_like": Tensor.normal_}


class OperatorMode(TorchDispatchMode):
    """Runs every ATen operator for real and tells the observer.

    What is not the copy's own is never written to: a write to a tensor of the user's goes to a stand-in, which takes
    its place for the rest of the run. Random numbers come from generators that belong to the run.
    """

    on_shapes = False
    with_gradients = False

    def __init__(self) -> None:
        super().__init__()
        self.report: Callable[..., None] = _unobserved
        self.hands_out: Callable[[str], None] = _unobserved
        self.taken_apart: Callable[..., None] = _unobserved
        self.failure = ""
        self.storages: Dict[int, List[Any]] = {}  # of the run's own tensors with values: weak references to these
        self.references: List[Any] = []  # weak ones, to all tensors that the run has made
        self.stand_ins: Dict[int, Tuple[Tensor, Tensor]] = {}
        self.generators: Dict[torch.device, Any] = {}
        self.rules: Dict[int, Any] = {}  # of shapes, by the operator's identity: operators hash in Python

    # ---- dispatch ----

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        effects = effects_of(func)
        if effects.composite and self._is_taken_apart(effects, args, kwargs):
            with self:
                return take_apart(func, args, kwargs)
        with no_torch_function():
            if self.stand_ins:
                args, kwargs = self._substituted(args), self._substituted(kwargs)
            try:
                out = self.compute(func, effects, args, kwargs)
            except Exception as error:
                if is_of_a_kernel(error):
                    self.fail(error)
                raise
            pass_on(args, out)
            self.report(func, args, kwargs, out)
        return out

    def _is_taken_apart(self, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> bool:
        """Say whether a composite operator runs as others: not where CUDA, or a tensor's class, has a kernel for it.

        With gradients, not where the CPU has one either: what it would keep in between is not there.
        """
        tensors = tensors_in((*args, *kwargs.values()))
        if any(map(is_foreign, tensors)) or (self.with_gradients and effects.on_cpu):
            return False
        device = device_of(tensors) if effects.on_cuda else None
        return device is None or device.type != "cuda"

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler for the first operator, which takes a second."""
        return False

    def fail(self, error: BaseException) -> None:
        """Note what the run has stumbled over: whatever the model makes of it, it would not have met it for real."""
        self.failure = self.failure or in_few_words(error)

    def compute(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Return the operator's result."""
        tensors = tensors_in((*args, *kwargs.values()))
        if any(type(tensor) is ShapeTensor for tensor in tensors):
            raise NeedsValues(f"{func._schema.name} meets a tensor without values in a real run")
        need_memory(tensors, func._schema.name)
        if effects.written:
            args, kwargs = self._protected(func, effects, args, kwargs)
        out = self._drawn(func, effects, args, kwargs) if effects.random else func(*args, **kwargs)
        self.own(out, effects.is_view and not effects.is_fresh)
        return out

    # ---- what is the run's own ----

    def own(self, made: Any, is_view: bool = False) -> None:
        """Note tensors that the run has made; a view is the run's own if what it is a view of is."""
        if type(made) is ShapeTensor:
            self.references.append(weakref.ref(made))
            return
        for tensor in (made,) if isinstance(made, Tensor) else tensors_in((made,)):
            reference = weakref.ref(tensor)
            self.references.append(reference)
            if type(tensor) is not ShapeTensor and tensor.layout is torch.strided:
                storage = key_of(tensor)
                if storage in self.storages or not is_view:
                    self.storages.setdefault(storage, []).append(reference)

    def is_own(self, tensor: Tensor) -> bool:
        """Say whether a tensor belongs to the run, so that it may be written to."""
        return lacks_values(tensor) or key_of(tensor) in self.storages

    def made(self, module: nn.Module) -> bool:
        """Say whether a module was made in the run, by its tensors."""
        return any(self.is_own(tensor) for tensor in (*module.parameters(), *module.buffers()))

    def alive(self) -> List[Tensor]:
        """Return the tensors of the run that somebody still holds."""
        return [tensor for tensor in [reference() for reference in self.references] if tensor is not None]

    def leftovers(self) -> List[Tensor]:
        """Return those of them that nobody may hold after the run."""
        return self.alive()

    def _protected(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any]]:
        """Make stand-ins for the user's own tensors that an operator is about to write to, and pass these instead."""
        for index, name in effects.written:
            target = args[index] if index < len(args) else kwargs.get(name)
            if func._schema.name == "aten::set_":  # it makes the tensor one on other memory, and writes to none
                continue
            for tensor in tensors_in((target,)):
                if tensor.layout is torch.strided and not self.is_own(tensor):
                    self._stand_in_for(tensor)
        return self._substituted(args), self._substituted(kwargs)

    def _stand_in_for(self, tensor: Tensor) -> None:
        size = storage_of(tensor).nbytes() // tensor.element_size()
        whole = torch.as_strided(tensor.detach(), (size,), (1,), 0).clone()
        self.stand_ins[key_of(tensor)] = tensor, whole
        self.own(whole)

    def _substituted(self, value: Any) -> Any:
        return map_tensors(value, self._substitute) if self.stand_ins else value

    def _substitute(self, tensor: Tensor) -> Tensor:
        if lacks_values(tensor) or tensor.layout is not torch.strided:
            return tensor
        _, whole = self.stand_ins.get(key_of(tensor), (None, None))
        if whole is None or whole.dtype is not tensor.dtype:
            return tensor
        with no_torch_dispatch():
            view = torch.as_strided(whole, tensor.shape, tensor.stride(), tensor.storage_offset())
        return self._like_stand_in(view, whole)

    def _like_stand_in(self, view: Tensor, whole: Tensor) -> Tensor:
        return view

    # ---- random numbers ----

    def _drawn(self, func: Any, effects: Effects, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Run a random operator with a generator of the run, which goes on where the process's own stands."""
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = torch.device(kwargs.get("device") or device_of(tensors_in(args)) or "cpu")
        generator = self._generator(device)
        if effects.has_generator:
            return func(*args, **{**kwargs, "generator": generator})
        overload = getattr(func._overloadpacket, "generator", None)
        if overload is not None:
            return overload(*args, **{**kwargs, "generator": generator})
        if func._schema.name in _DRAWN_LIKE:  # torch before 2.10 has no overload for these
            return _DRAWN_LIKE[func._schema.name](torch.empty_like(*args, **kwargs), generator=generator)
        return self._with_process_generator(device, generator, lambda: func(*args, **kwargs))

    def _generator(self, device: torch.device) -> Any:
        if device not in self.generators:
            generator = torch.Generator(device=device)
            generator.set_state(_process_generator(device).get_state())
            self.generators[device] = generator
        return self.generators[device]

    def _with_process_generator(self, device: torch.device, generator: Any, draw: Callable[[], Any]) -> Any:
        """Run an operator that takes no generator: for as long as it draws, the process's own is the run's."""
        process = _process_generator(device)
        kept = process.get_state()
        try:
            process.set_state(generator.get_state())
            return draw()
        finally:
            generator.set_state(process.get_state())
            process.set_state(kept)

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Keep from the observer what is not the model's doing, or is reported as one operator."""
        heard = self.report, self.taken_apart
        self.report = self.taken_apart = _unobserved
        try:
            yield
        finally:
            self.report, self.taken_apart = heard

    def whole(self, func: Any, function: Any, args: Any, kwargs: Dict[str, Any]) -> Any:
        """Call a function of PyTorch that comes to an operator, and report that alone."""
        if autocast_is_on():  # which casts what goes in
            return function(*args, **kwargs)
        rule = self.rules.get(id(func))
        with self.unheard(), no_torch_function():
            out = NotImplemented if rule is None else rule(*args, **kwargs)
            out = function(*args, **kwargs) if out is NotImplemented else out
        with no_torch_function():
            self.own(out)
            self.report(func, args, kwargs, out)
        return out


def need_memory(tensors: Sequence[Tensor], what: str) -> None:
    """Raise NotCountable for a tensor whose storage somebody has made too small: C++ would read beyond its end."""
    for tensor in tensors:
        if tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() and tensor.device.type == "cpu":
            extent = tensor.numel()
            if not tensor.is_contiguous():
                extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            if storage_of(tensor).nbytes() < (tensor.storage_offset() + extent) * tensor.element_size():
                shape = tuple(tensor.shape)
                raise NotCountable(f"{what} reads a tensor of shape {shape} whose storage was made smaller")


def _process_generator(device: torch.device) -> Any:
    """Return the generator that the process draws from on a device."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def _unobserved(*args: Any) -> None:
    """Take the observer's place before the run has begun, and inside of what is reported as one operator."""


_KNOWN_KINDS = (Tensor, ShapeTensor, nn.Parameter, getattr(nn, "Buffer", Tensor))


def is_foreign(tensor: Tensor) -> bool:
    """Say whether a tensor is of a class that has its own way with operators, such as a nested one."""
    return type(tensor) not in _KNOWN_KINDS and not isinstance(tensor, nn.Parameter)
