"""Numbers for reading: 81856816 as 81.9M."""

from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))


def clever_format(nums: Any, format: str = "%.2f") -> Any:
    """Format a number, or several, with the units T, G, M, K and B (ones), as thop's function of this name does.

    Returns a string for one number, a tuple of strings for several.
    """
    numbers = nums if isinstance(nums, Iterable) else (nums,)
    texts = tuple(scaled(number, format, "B") for number in numbers)
    return texts[0] if len(texts) == 1 else texts


def scaled(number: float, format: str, unit_of_ones: str) -> str:
    """Format a number with the largest of the units T, G, M, K that it reaches."""
    for scale, unit in _UNITS:
        if abs(number) >= scale:
            return format % (number / scale) + unit
    return format % number + unit_of_ones


def readable(number: float) -> str:
    """Format a count for reading: 81856816 as 81.9M, 512 as 512."""
    return scaled(number, "%.1f" if abs(number) >= 1000 else "%.0f", "")


def dtype_name(dtype: Any) -> str:
    """Name a torch dtype as users write it: float32."""
    return str(dtype).replace("torch.", "")


def readable_bytes(number: float) -> str:
    """Format bytes for reading: 26214912 as 26.2MB."""
    return f"{readable(number)}B"


def listed(names: Iterable[str], last: str = " and ") -> str:
    """Join names for a sentence: a, b and c."""
    *others, final = names
    return last.join((", ".join(others), final)) if others else final


def first_of(names: Sequence[str], most: int) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def together(pairs: Iterable[Tuple[Any, str]]) -> Dict[Any, List[str]]:
    """Put names together of which the same is said, each once: of pairs of what is said and a name."""
    found: Dict[Any, Dict[str, None]] = {}
    for said, name in pairs:
        found.setdefault(said, {})[name] = None
    return {said: list(names) for said, names in found.items()}


def kinds_not_counted(missing: Mapping[str, int]) -> str:
    """Say in a few words that something ran which has no number: "+ 2 kinds of layers not counted"; "" for nothing."""
    kinds = len(missing)
    return f"+ {kinds} kind{'s' * (kinds != 1)} of layers not counted" if kinds else ""
