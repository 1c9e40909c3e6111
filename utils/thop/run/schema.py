"""What an operator's schema says of it: what it returns anew, what it writes to, what it is made of."""

from typing import Any, Dict, FrozenSet, NamedTuple, Tuple

from .torch_private import has_kernel


class Effects(NamedTuple):
    """What can be read from an operator's schema and registration.

    is_view: it only returns aliases of its inputs; written: position and name of the arguments that are written to;
    write_only: names of those among them that are not read; new_results: for each result whether it is new; composite:
    PyTorch takes it apart into other operators; random: it draws numbers; has_generator: a generator can be handed to
    it; has_device: it can be told where to make its result; has_sizes: how large that gets is among its arguments;
    on_cuda, on_cpu: CUDA, or the CPU, has a kernel for it; is_plain_view: a view is made in all cases, not in some as
    by ``reshape``; is_fresh: what looks like a view in its schema is on memory that is nobody else's.
    """

    is_view: bool
    written: Tuple[Tuple[int, str], ...]
    write_only: Tuple[str, ...]
    new_results: Tuple[bool, ...]
    composite: bool
    random: bool
    has_generator: bool
    has_device: bool
    has_sizes: bool
    on_cuda: bool
    on_cpu: bool
    is_plain_view: bool
    is_fresh: bool


_KNOWN: Dict[int, Effects] = {}  # by identity: operators are made once, and hash in Python
_VIEWS_ALL_THE_SAME = frozenset(
    f"aten::{name}" for name in ("_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
)
"""Views, whatever their schemas say."""
_DRAWS = frozenset(
    f"aten::{name}" for name in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like",
                                 "native_dropout", "_fused_dropout", "rrelu_with_noise", "rrelu_with_noise_")
)  # fmt: skip


def words(text: str) -> FrozenSet[str]:
    """Read a list of names."""
    return frozenset(text.split())


def effects_of(func: Any) -> Effects:
    """Return what an operator does by its schema, which is read once."""
    known = _KNOWN.get(id(func))
    if known is None:
        known = _KNOWN[id(func)] = _read(func)
    return known


def _read(func: Any) -> Effects:
    schema = func._schema
    arguments = schema.arguments
    written = [(i, a) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
    aliased = [r.alias_info is not None for r in schema.returns]
    kinds = [str(a.type) for a in arguments]
    has_generator = any("Generator" in kind for kind in kinds)
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    is_view = any(aliased) and not written
    composite = has_kernel(name, "CompositeImplicitAutograd")
    return Effects(
        is_view=is_view,
        written=tuple((i, a.name) for i, a in written),
        write_only=tuple(a.name for _, a in written if a.kwarg_only),
        new_results=tuple(not alias for alias in aliased),
        composite=composite,
        random=has_generator or schema.name in _DRAWS,
        has_generator=has_generator,
        has_device=any(a.name == "device" for a in arguments),
        has_sizes=not any("Tensor" in kind for kind in kinds) or any("int[" in kind.lower() for kind in kinds),
        on_cuda=has_kernel(name, "CUDA"),
        on_cpu=has_kernel(name, "CPU"),
        is_plain_view=(is_view and not composite) or schema.name in _VIEWS_ALL_THE_SAME,
        is_fresh=schema.name == "aten::lift_fresh",
    )
