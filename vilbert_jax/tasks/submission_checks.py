"""What the submissions of all tasks have in common: a list of entries, one for every item of the split."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from vilbert_jax.errors import InputError

_SUM_TOLERANCE = 1e-3
_SHOWN = 100  # characters of an entry in a message


def checked_entries(
    submission: Any, names: Sequence[str], wanted: Sequence[tuple[Hashable, ...]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Goes through a submission and checks that it has every item of the split once and nothing else.

    Args:
        submission: plain JSON values.
        names: of the keys of an entry that say which item it belongs to.
        wanted: for every item of the split the values of these keys.

    Yields:
        For each entry how to call it in a message, and the entry.

    Raises:
        InputError: no list of objects, or an entry that is repeated, unknown or, after the last one, missing.
    """
    if not isinstance(submission, list):
        raise InputError(
            f"submission is a {type(submission).__name__}; expected a list of objects, such as the predictions.json of "
            "experiments/evaluate.py"
        )
    left, seen = set(wanted), dict[tuple[Hashable, ...], int]()
    types = [type(value) for value in wanted[0]] if wanted else []
    for number, entry in enumerate(submission):
        where = f"submission entry {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is {_short(entry)}; expected an object with {', '.join(names)}")
        for name, kind in zip(names, types, strict=False):
            require(type(entry.get(name)) is kind, where, entry, name, kind.__name__)
        key = tuple(entry.get(name) for name in names)
        if key in seen:
            raise InputError(
                f"{where} has {_key(names, key)} like entry {seen[key]}; expected every item once: leave one out"
            )
        if key not in left:
            raise InputError(
                f"{where} has {_key(names, key)}, which the split does not have; expected the {len(wanted):,} items of "
                "the split: evaluate the split that is to be submitted"
            )
        left.remove(key)
        seen[key] = number
        yield where, entry
    if left:
        first = next(key for key in wanted if key in left)
        raise InputError(
            f"submission lacks {len(left):,} of {len(wanted):,} items of the split, first {_key(names, first)}: "
            "evaluate the whole split"
        )


def require(holds: bool, where: str, entry: Mapping[str, Any], name: str, expected: str) -> None:
    """Raises InputError about the key ``name`` of an entry unless something holds."""
    if not holds:
        found = f"{name} {_short(entry[name])}" if name in entry else f"no {name} in {_short(entry)}"
        raise InputError(f"{where} has {found}; expected {expected}: write it as Task.submission does")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number; true and false are none."""
    return type(value) in (int, float)


def require_distribution(where: str, entry: Mapping[str, Any], name: str, length: int) -> None:
    """Raises InputError unless the key ``name`` of an entry holds so many probabilities that add up to 1."""
    values = entry.get(name)
    holds = (
        isinstance(values, list)
        and len(values) == length
        and all(is_number(value) and 0 <= value <= 1 for value in values)
        and abs(sum(values) - 1) <= _SUM_TOLERANCE
    )
    require(holds, where, entry, name, f"{length} probabilities that add up to 1")


def _key(names: Sequence[str], key: Sequence[Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in zip(names, key, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
