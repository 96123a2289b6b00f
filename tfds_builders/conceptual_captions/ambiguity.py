"""Which image ids stand for two pictures.

The public feature dumps name a picture by the CRC-32 of its URL. 3.3 million URLs share 4.3 billion values, so about
1,300 pairs of different URLs share one, and a dump, which was written id by id, holds the regions of only one of the
two. Nobody can tell which, so neither pair may be given them.
"""

import numpy as np


def find_ambiguous(image_ids: np.ndarray, fingerprints: np.ndarray) -> tuple[np.ndarray, int]:
    """Finds rows whose image id belongs to more than one URL.

    Args:
        image_ids: [N] uint32, the id of each row's URL.
        fingerprints: [N] uint64, another hash of the same URL. Two URLs are taken for one only if both agree.

    Returns:
        [N] bool, True where another URL has the same id; and how many rows repeat the URL of an earlier one.
    """
    order = np.lexsort((fingerprints, image_ids))
    ids, urls = image_ids[order], fingerprints[order]
    new_id = np.ones(len(order), bool)
    new_id[1:] = ids[1:] != ids[:-1]
    new_url = new_id.copy()
    new_url[1:] |= urls[1:] != urls[:-1]
    group = np.cumsum(new_id) - 1
    urls_of_id = np.bincount(group[new_url])
    ambiguous = np.empty(len(order), bool)
    ambiguous[order] = urls_of_id[group] > 1
    return ambiguous, len(order) - int(new_url.sum())
