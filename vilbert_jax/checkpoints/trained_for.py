"""What a checkpoint was trained for, and how its task read texts and pictures: plain JSON beside its vocabulary."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self, get_args

from vilbert_jax.data.text import Truncation
from vilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedFor:
    """Settings without which the same parameters give other results. The defaults are of files that state none.

    Attributes:
        task: its class, ``module:Class`` as in a recipe; empty where it is not known.
        text_length: tokens of a text that the model reads, special ones included; None: a text is never cut.
        truncation: of a longer text, see ``text.pack``.
        max_regions: of a picture, the first ones; at least 1.
        task_token: number of the task; None for models without task tokens, and where it is not known.
        whole_image: whether the whole picture is a candidate; read with a ``grounding`` head alone.
    """

    task: str = ""
    text_length: int | None = None
    truncation: Truncation = "keep_sep"
    max_regions: int = 100
    task_token: int | None = None
    whole_image: bool = True

    def to_json(self) -> dict[str, Any]:
        """As a dict that json.dumps accepts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], origin: str) -> Self:
        """Reads what ``to_json`` wrote; fields that were not written have their defaults.

        Unknown fields are refused. Another version wrote them because they change results, so that passing over them
        would give other ones without a word.

        Args:
            values: the JSON.
            origin: whose it is, for the message.

        Raises:
            InputError: a field is unknown, or its value cannot be.
        """
        if unknown := sorted(set(values) - _POSSIBLE.keys()):
            raise InputError(
                f"{origin} says of its training what this version does not know, {', '.join(unknown)}; known are "
                f"{', '.join(_POSSIBLE)}: use the version that wrote it, or a newer one"
            )
        wrong = [f"{name} is {value!r}" for name, value in values.items() if not _POSSIBLE[name](value)]
        if wrong:
            raise InputError(
                f"what {origin} says of its training is damaged, {'; '.join(wrong)}: restore its contents.json"
            )
        return cls(**values)


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _or_none(possible: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or possible(value)


_POSSIBLE: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: isinstance(value, str),
    "text_length": _or_none(_is_count(3)),
    "truncation": lambda value: value in get_args(Truncation),
    "max_regions": _is_count(1),
    "task_token": _or_none(_is_count(0)),
    "whole_image": lambda value: isinstance(value, bool),
}
