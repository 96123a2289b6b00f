"""What an import of the package costs: which packages it brings in, not how long that takes."""

import subprocess
import sys

import pytest

HEAVY = {
    "flax", "grain", "jax", "matplotlib", "optax", "orbax", "tensorboardX", "tensorflow", "tensorflow_datasets",
    "tokenizers", "torch", "transformers",
}  # fmt: skip


def brought_in(code):
    """Those of the heavy packages that a process has after ``code``."""
    report = f"import sys; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    return set(subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
               .stdout.split())  # fmt: skip


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import vilbert_jax", set()),
        ("import vilbert_jax as vj; vj.ViLBERTConfig.base(), vj.InputError, vj.metrics", set()),
        ("import vilbert_jax as vj; vj.ViLBERTForTasks, vj.Inputs, vj.losses", {"jax", "flax"}),
        ("import vilbert_jax as vj; vj.data, vj.RegionStore", {"tensorflow_datasets", "tokenizers"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code, allowed):
    assert brought_in(code) <= allowed
