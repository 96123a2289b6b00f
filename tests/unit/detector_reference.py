"""What the detector's array code must compute, as loops over one box at a time."""

import numpy as np


def overlap(a, b, plus_one):
    """Intersection over union as the reference's compiled code has it, a C float."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + plus_one, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + plus_one, 0)
    area_a, area_b = ((x[2] - x[0] + plus_one) * (x[3] - x[1] + plus_one) for x in (a, b))
    return np.float32(width * height) / np.float32(area_a + area_b - width * height)


def greedy(boxes, ranking, threshold, *, inclusive, plus_one):
    """Places of the boxes that are left, in the order of the ranking."""
    kept = []
    for i in ranking:
        found = [float(overlap(boxes[i], boxes[j], plus_one)) for j in kept]
        if not any(x >= threshold if inclusive else x > threshold for x in found):
            kept.append(i)
    return kept


def roi_pool(feature_map, box, size, resolution):
    """Max-pooling of one box [R, R, C] on the first ``size`` rows and columns of a map [h, w, C]."""
    x1, y1, x2, y2 = (int(np.floor(np.float32(side) / np.float32(16) + np.float32(0.5))) for side in box)
    pooled = np.zeros((resolution, resolution, feature_map.shape[2]), np.float32)
    step_y, step_x = (np.float32(max(b - a + 1, 1)) / np.float32(resolution) for a, b in ((y1, y2), (x1, x2)))
    for row in range(resolution):
        for column in range(resolution):
            top, bottom = _cell(row, step_y, y1, size[0])
            left, right = _cell(column, step_x, x1, size[1])
            cells = feature_map[top:bottom, left:right]
            if cells.size:
                pooled[row, column] = cells.max(axis=(0, 1))
    return pooled


def _cell(place, step, start, limit):
    first = int(np.floor(np.float32(place) * step)) + start
    end = int(np.ceil(np.float32(place + 1) * step)) + start
    return min(max(first, 0), limit), min(max(end, 0), limit)
