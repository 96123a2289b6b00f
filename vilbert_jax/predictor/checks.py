"""Arguments of the wrong kind: refused where they are given, with their names."""

import numbers
import os
from typing import Any

from vilbert_jax.errors import InputError


def check_number(name: str, value: Any, *, least: int) -> None:
    """Raises InputError unless the value is a whole number, and large enough; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number, at least {least}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless the value is True or False: a text such as "no" would count as True."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be True or False")


def check_path(name: str, value: Any, *others: str) -> None:
    """Raises InputError unless the value is a path; ``others`` say what else could have been given."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is given as {type(value).__name__}: give {' or '.join(['a path', *others])}")
