"""Numbers are compared as users get them: from programs that XLA has optimised."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def optimised() -> Iterator[None]:
    """Undoes what ``tests/conftest.py`` sets to save time."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
