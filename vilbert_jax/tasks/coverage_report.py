"""What a run says about the rows of its splits that have no regions and are left out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from vilbert_jax.data.coverage import Coverage


def report_coverage(splits: Mapping[str, Coverage | None]) -> dict[str, Any]:
    """Prints, on the first host, how many rows of each split have regions; returns it as coverage.json for the run."""
    found = {split: coverage for split, coverage in splits.items() if coverage}
    if found and jax.process_index() == 0:
        print("pairs with regions: " + "; ".join(f"{split} {coverage}" for split, coverage in found.items()))
    return {"coverage.json": {split: dataclasses.asdict(coverage) for split, coverage in found.items()}}
