"""Packages that only imports of certain formats need."""

import importlib
from typing import Any

from vilbert_jax.errors import InputError


def load(package: str) -> Any:
    """The package, imported now.

    Raises:
        InputError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"this format needs the package {package}, which is not installed: pip install 'vilbert-jax[import]', "
            f"or pip install {package}"
        ) from error
