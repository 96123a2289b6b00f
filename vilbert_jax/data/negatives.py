"""Negatives of the NCE objective, which predicts the features of a masked region among those of other regions."""

import numpy as np


def nce_negatives(
    rng: np.random.Generator, *, row: int, num_rows: int, num_regions: int, num_negatives: int
) -> np.ndarray:
    """Draws the negatives of the NCE objective for the regions of one image.

    ``int(0.7 N)`` come from other images of the global batch (any region, padding included) and ``int(0.3 N)`` from
    other regions of the same image, as in vilbert-multi-task; 128 gives 127, there as here.

    Args:
        rng: of this row and step.
        row: the image's row in the global batch.
        num_rows: rows of the global batch, at least 2.
        num_regions: R, at least 2.
        num_negatives: N.

    Returns:
        [R, int(0.7 N) + int(0.3 N)] int32 flat indices into the global batch's targets, seen as [num_rows * R, C].
    """
    num_across, num_within = int(0.7 * num_negatives), int(0.3 * num_negatives)
    other_row = rng.integers(num_rows - 1, size=(num_regions, num_across))
    other_row[other_row == row] = num_rows - 1  # the last row stands in for the own one
    column = rng.integers(num_regions, size=(num_regions, num_across))
    own_column = np.arange(num_regions)[:, None]
    other_column = rng.integers(num_regions - 1, size=(num_regions, num_within))
    other_column = np.where(other_column == own_column, num_regions - 1, other_column)
    flat = [other_row * num_regions + column, row * num_regions + other_column]
    return np.concatenate(flat, axis=1).astype(np.int32)
