"""What a caller of ``model_info`` has asked for, in the words of the checkout's own function."""

import inspect
from typing import Any, Dict, NamedTuple, Tuple

from ..run import unwrap
from ..run.inputs import as_size, fitting_size, like_given

UNSAID: Any = inspect.Parameter.empty


class Asked(NamedTuple):
    """A call of ``model_info``.

    args, kwargs: what the checkout's function gets after the model; size: the image size as it was given, or that is
    the function's own default, UNSAID where neither is known; takes_size: whether the function hears of it;
    is_other: whether it is another than the function's own; table: whether the table of modules is wanted; depth, sort:
    what of it.
    """

    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]
    size: Any
    takes_size: bool
    is_other: bool
    table: bool
    depth: Any = None
    sort: Any = None


_SIZES = ("imgsz", "img_size")
_OURS = (*_SIZES, "verbose", "detailed", "depth", "sort")


def _own(
    model: Any,
    verbose: Any = False,
    img_size: Any = 640,
    imgsz: Any = None,
    detailed: Any = False,
    depth: Any = None,
    sort: Any = None,
) -> None:
    """Stand for the arguments that ``model_info`` takes where a checkout has no function of this name."""


def understand(checkout: Any, model: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Asked:
    """Part a caller's arguments into the checkout's and ours; raises TypeError for what neither takes."""
    if checkout is None:
        bound = inspect.signature(_own).bind(model, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        size = given["img_size"] if given["imgsz"] is None else given["imgsz"]
        table = bool(given["verbose"] or given["detailed"])
        return Asked((), {}, size, True, False, table, given["depth"], given["sort"])
    signature = _signature(checkout)
    taken, rest = _parted(signature, kwargs)
    bound = signature.bind(model, *args, **taken)
    said = dict(bound.arguments)
    bound.apply_defaults()
    values = bound.arguments
    name = next((name for name in _SIZES if name in values), "")
    size = values[name] if name else next((rest[other] for other in _SIZES if rest.get(other) is not None), UNSAID)
    if name:
        args, taken = _fitting(signature, model, name, size, args, taken)
    tabled = [next((values[word] for word in ("detailed", "verbose") if word in values), False)]
    tabled += [rest.get("verbose"), rest.get("detailed"), "detailed" not in said and said.get("verbose")]
    is_other = _is_other(size, signature.parameters[name].default) if name else size is not UNSAID
    return Asked(args, taken, size, bool(name), is_other, any(tabled), rest.get("depth"), rest.get("sort"))


def _is_other(size: Any, default: Any) -> bool:
    try:
        return as_size(size) != as_size(default)
    except ValueError:
        return size is not default


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None)


def _parted(signature: inspect.Signature, kwargs: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return the named arguments that the checkout's function takes, and those that are ours alone."""
    names = signature.parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())
    taken: Dict[str, Any] = {}
    rest: Dict[str, Any] = {}
    for name, value in kwargs.items():
        own = name in names or (takes_any and name not in ("depth", "sort")) or name not in _OURS
        (taken if own else rest)[name] = value
    for name, other in (_SIZES, _SIZES[::-1], ("detailed", "verbose")):  # the same by another name
        if name in rest and other in names and other not in taken:
            taken[other] = rest.pop(name)
    return taken, rest


def _fitting(
    signature: inspect.Signature, model: Any, name: str, size: Any, args: Tuple[Any, ...], taken: Dict[str, Any]
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """Hand on a size as it was given, or one in the same form that the model's stride divides."""
    try:
        fitting = fitting_size(unwrap(model), size)
        if fitting == as_size(size):
            return args, taken
    except ValueError:
        return args, taken
    position = list(signature.parameters).index(name) - 1
    if position < len(args):
        return (*args[:position], like_given(fitting, size), *args[position + 1 :]), taken
    return args, {**taken, name: like_given(fitting, size)}
