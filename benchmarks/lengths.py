"""How long captions are and how many regions pictures have: one made-up distribution for all benchmarks.

Conceptual Captions' captions are mostly 8 to 16 word pieces; a detector keeps 10 to 36 regions a picture. Drawn here:
word pieces log-normal around 11.5, 4 to 34, with [CLS] and [SEP] 14.4 on average of the 36 that training pads to;
regions normal around 27, 10 to 36, with the global one 27.3 on average of 37. Both are drawn evenly from their
quantiles, so that a small batch is as long as a large one, and are independent. A pure function of its arguments.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

TEXT_LENGTH, NUM_REGIONS = 36, 36  # what training pads to: tokens with [CLS] and [SEP], regions without the global one
_FEWEST_PIECES, _FEWEST_REGIONS = 4, 10


class Lengths(NamedTuple):
    """Of N pairs."""

    pieces: np.ndarray  # [N] int64, word pieces without [CLS] and [SEP]
    regions: np.ndarray  # [N] int64, without the global one


def real(count: int, seed: int = 0) -> Lengths:
    """As they are found."""
    rng, normal = np.random.default_rng(seed), NormalDist()
    even = np.array([normal.inv_cdf((k + 0.5) / count) for k in range(count)])  # [N] quantiles of the standard normal
    pieces = np.exp(np.log(11.5) + 0.38 * rng.permutation(even)).round()
    regions = (27 + 9 * rng.permutation(even)).round()
    return Lengths(
        pieces.clip(_FEWEST_PIECES, TEXT_LENGTH - 2).astype(np.int64),
        regions.clip(_FEWEST_REGIONS, NUM_REGIONS).astype(np.int64),
    )


def full(count: int, seed: int = 0) -> Lengths:
    """As long as can be: nothing is padding."""
    del seed
    return Lengths(np.full(count, TEXT_LENGTH - 2), np.full(count, NUM_REGIONS))
