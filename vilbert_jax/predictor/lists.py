"""One or many: a list goes with a list pair by pair, a single thing with every member of a list."""

from typing import Any

from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.errors import InputError


def are_many(given: Any) -> bool:
    """Whether it is a list of pictures or texts; a region record, though a tuple, is one picture."""
    return isinstance(given, list | tuple) and not isinstance(given, RegionRecord)


def listed(given: Any) -> list[Any]:
    """A list of what is given, whether one or many."""
    return [*given] if are_many(given) else [given]


def paired(images: list[Any], texts: list[Any], *, many_images: bool, many_texts: bool) -> tuple[list[Any], list[Any]]:
    """Pictures and texts as two lists of one length; a list that stands for a single thing is repeated."""
    return images if many_images else images * len(texts), texts if many_texts else texts * len(images)


def check_counts(images: Any, texts: Any) -> None:
    """Raises InputError for two lists of different lengths."""
    if are_many(images) and are_many(texts) and len(images) != len(texts):
        raise InputError(
            f"there are {len(images)} images and {len(texts)} texts: give as many of both, or a single one, not in a "
            "list, for all of the others"
        )
