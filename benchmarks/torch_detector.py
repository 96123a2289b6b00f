"""The public detector in plain PyTorch: what benchmarks/detector.py compares with, and one picture by itself.

python benchmarks/torch_detector.py WEIGHTS.safetensors

torch.nn.functional and nothing compiled for the purpose, in the Caffe flavour, from tensors under their public names.
Regions are pooled one by one with ``adaptive_max_pool2d``, whose bins are the reference's but for a few lengths beyond
56 cells. Suppression is a loop over kept boxes on what is left of the sorted ones; the one within each class is
vectorised over classes, since a loop over 1600 of them would take seconds. H, W a picture's sides in pixels, h, w
those of its feature map, P regions, C objects.
"""

# torch is optional, and types are checked without it.
# pyright: reportMissingImports=false

import os
import pathlib
import re
import sys
import time
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {"backbone.res2": 3, "backbone.res3": 4, "backbone.res4": 23, "roi_heads.res5": 3}
STRIDE, RESOLUTION, MAX_LOG_GROWTH = 16, 14, float(np.log(1000 / 16))
MAX_CANDIDATES, MAX_PROPOSALS, MIN_SIDE, OVERLAP = 6000, 300, 16.0, 0.7
REGIONS_AT_ONCE = 20

Weights = dict[str, Tensor]


class Described(NamedTuple):
    """What the predictors say about regions."""

    features: Tensor
    class_logits: Tensor
    attribute_logits: Tensor
    box_deltas: Tensor


def conv_norm(
    x: Tensor, weights: Weights, name: str, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Convolution and batch norm with stored statistics."""
    y = F.conv2d(x, weights[f"{name}.weight"], None, stride, padding, dilation)
    mean, variance, scale, bias = (
        weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(y, mean, variance, scale, bias, eps=1e-5)


def bottleneck(x: Tensor, weights: Weights, name: str, *, stride: int, dilation: int) -> Tensor:
    """One residual block."""
    y = F.relu_(conv_norm(x, weights, f"{name}.conv1", stride=stride))
    y = F.relu_(conv_norm(y, weights, f"{name}.conv2", padding=dilation, dilation=dilation))
    y = conv_norm(y, weights, f"{name}.conv3")
    projected = f"{name}.shortcut.weight" in weights
    return F.relu_(y.add_(conv_norm(x, weights, f"{name}.shortcut", stride=stride) if projected else x))


def stage(x: Tensor, weights: Weights, name: str, *, stride: int, dilation: int = 1) -> Tensor:
    """The blocks of one stage; the first has the stride."""
    for block in range(BLOCKS[name]):
        x = bottleneck(x, weights, f"{name}.{block}", stride=1 if block else stride, dilation=dilation)
    return x


def feature_map(weights: Weights, pixels: Tensor) -> Tensor:
    """[1, 1024, h, w] from pixels [1, 3, H, W], blue, green, red, the mean subtracted."""
    x = F.relu_(conv_norm(pixels, weights, "backbone.stem.conv1", stride=2, padding=3))
    x = F.max_pool2d(x, 3, 2, 0, ceil_mode=True)
    for number in (2, 3, 4):
        x = stage(x, weights, f"backbone.res{number}", stride=1 if number == 2 else 2)
    return x


def candidates(weights: Weights, cells: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The likeliest boxes [6000, 4], best first, of a feature map."""
    head = "proposal_generator.rpn_head"

    def convolve(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, weights[f"{head}.{name}.weight"], weights[f"{head}.{name}.bias"], padding=padding)

    hidden = F.relu_(convolve(cells, "conv", 1))
    background, foreground = convolve(hidden, "objectness_logits")[0].permute(1, 2, 0).chunk(2, dim=-1)
    logits = (foreground - background).reshape(-1)
    deltas = convolve(hidden, "anchor_deltas")[0].permute(1, 2, 0).reshape(-1, 4)
    y, x = (torch.arange(0, STRIDE * side, STRIDE, dtype=torch.float32) for side in cells.shape[2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    anchors = weights["proposal_generator.anchor_generator.cell_anchors.0"]
    boxes = (torch.stack([x, y, x, y], dim=-1)[:, :, None] + anchors).reshape(-1, 4)
    boxes = clip(decode(boxes, deltas), size)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    is_large = (sides >= MIN_SIDE / scale).all(dim=1)
    boxes, logits = boxes[is_large], logits[is_large]
    return boxes[logits.topk(min(MAX_CANDIDATES, len(logits))).indices]


def decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes moved by deltas; sides are inclusive."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    centers = boxes[:, :2] + 0.5 * sides + deltas[:, :2] * sides
    halves = 0.5 * sides * deltas[:, 2:].clamp(max=MAX_LOG_GROWTH).exp()
    return torch.cat([centers - halves, centers + halves], dim=1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut off at the border of a picture of this height and width."""
    return boxes.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype) - 1)


def overlaps(boxes: Tensor, others: Tensor, *, plus_one: bool) -> Tensor:
    """Intersection over union, [P, Q]."""
    sides = torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - torch.maximum(
        boxes[:, None, :2], others[None, :, :2]
    )
    shared = (sides + plus_one).clamp(min=0).prod(dim=-1)
    area, other_area = ((b[:, 2:] - b[:, :2] + plus_one).prod(dim=-1) for b in (boxes, others))
    return shared / (area[:, None] + other_area[None] - shared)


def suppress(boxes: Tensor, threshold: float, *, inclusive: bool, plus_one: bool, max_kept: int) -> Tensor:
    """Places of the boxes, sorted best first, that no better one drops; no more than ``max_kept``."""
    kept, left = [], torch.arange(len(boxes))
    while len(left) and len(kept) < max_kept:
        kept.append(left[0])
        overlap = overlaps(boxes[left[:1]], boxes[left[1:]], plus_one=plus_one)[0]
        left = left[1:][~(overlap >= threshold if inclusive else overlap > threshold)]  # boxes without area stay
    return torch.stack(kept)


def pool_regions(cells: Tensor, boxes: Tensor) -> Tensor:
    """[P, 1024, 14, 14] from a feature map [1, 1024, h, w] and boxes in pixels of the picture."""
    corners = (boxes / STRIDE + 0.5).floor().long().tolist()
    crops = [cells[:, :, top : bottom + 1, left : right + 1] for left, top, right, bottom in corners]
    return torch.cat([F.adaptive_max_pool2d(crop, RESOLUTION) for crop in crops])


def region_features(weights: Weights, pooled: Tensor, at_once: int = REGIONS_AT_ONCE) -> Tensor:
    """[P, 2048]: res5 and its mean. The public implementations take all regions at once, which is slower here."""
    parts = pooled.split(at_once)
    return torch.cat([stage(x, weights, "roi_heads.res5", stride=1, dilation=2).mean(dim=(2, 3)) for x in parts])


def predict(weights: Weights, features: Tensor) -> Described:
    """Classes, attributes and box deltas."""

    def dense(x: Tensor, name: str) -> Tensor:
        name = f"roi_heads.box_predictor.{name}"
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    class_logits = dense(features, "cls_score")
    embedded = weights["roi_heads.box_predictor.cls_embed.weight"][class_logits.argmax(dim=1)]
    hidden = F.relu_(dense(torch.cat([features, embedded], dim=1), "attr_linear1"))
    return Described(features, class_logits, dense(hidden, "attr_linear2"), dense(features, "bbox_pred"))


def surviving_confidence(boxes: Tensor, probs: Tensor, threshold: float, *, inclusive: bool) -> Tensor:
    """[P]: the probability of the likeliest class [P, C] in which no better region drops this one; 0 if none."""
    overlap = overlaps(boxes, boxes, plus_one=True)
    drops = (overlap >= threshold if inclusive else overlap > threshold).fill_diagonal_(False)
    left = torch.ones(probs.shape[::-1], dtype=torch.bool)
    classes = torch.arange(probs.shape[1])
    for best in probs.argsort(dim=0, descending=True, stable=True):
        left &= ~(drops[best] & left[classes, best][:, None])
    return torch.where(left.T, probs, 0).amax(dim=1)


def select_confident(boxes: Tensor, described: Described, at_least: int = 10, at_most: int = 36) -> Tensor:
    """Rows that bottom-up attention keeps, in its order."""
    probs = described.class_logits.softmax(dim=1)[:, 1:]
    best = surviving_confidence(boxes, probs, 0.3, inclusive=True)
    rows = (best >= 0.2).nonzero()[:, 0]
    if at_least <= len(rows) <= at_most:
        return rows
    return best.argsort(descending=True, stable=True)[: min(max(len(rows), at_least), at_most)]


def select_best(boxes: Tensor, described: Described, at_most: int = 100) -> Tensor:
    """Rows that vilbert-multi-task keeps."""
    probs = described.class_logits.softmax(dim=1)[:, 1:]
    best = surviving_confidence(boxes, probs, 0.5, inclusive=False)
    return best.argsort(descending=True, stable=True)[:at_most]


def select_class_agnostic(
    boxes: Tensor, described: Described, size: tuple[int, int], scale: float, num_kept: int = 36
) -> Tensor:
    """Rows that LXMERT's port keeps; ``boxes`` in pixels of the network's input."""
    best, classes = described.class_logits.softmax(dim=1)[:, 1:].max(dim=1)
    deltas = described.box_deltas.unflatten(1, (-1, 4))[torch.arange(len(boxes)), classes + 1]
    order = best.argsort(descending=True, stable=True)
    moved = (clip(decode(boxes, deltas), size) * scale)[order]
    kept = order[:0]
    for threshold in (0.5, 0.6, 0.7):
        kept = suppress(moved, threshold, inclusive=False, plus_one=False, max_kept=num_kept)
        if len(kept) >= num_kept:
            break
    return order[kept]


def proposals(weights: Weights, cells: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Up to 300 boxes of a feature map, best first."""
    boxes = candidates(weights, cells, size, scale)
    return boxes[suppress(boxes, OVERLAP, inclusive=True, plus_one=True, max_kept=MAX_PROPOSALS)]


def detect(weights: Weights, pixels: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in raw pixels, features and class probabilities of the regions of one picture [1, 3, H, W]."""
    cells = feature_map(weights, pixels)
    boxes = proposals(weights, cells, (pixels.shape[2], pixels.shape[3]), scale)
    described = predict(weights, region_features(weights, pool_regions(cells, boxes)))
    rows = select_confident(boxes * scale, described)
    return boxes[rows] * scale, described.features[rows], described.class_logits[rows].softmax(dim=1)


def as_tensor(array: np.ndarray) -> Tensor:
    """A copy in PyTorch's own order of memory."""
    return torch.from_numpy(np.ascontiguousarray(array))


def load(path: str) -> Weights:
    """The tensors of a file; from now on there is a thread for each core, and nothing keeps gradients."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    return safetensors.torch.load_file(path)


def peak_memory() -> str:
    """Of this process since it began, as the kernel words it; getrusage's starts at the parent's."""
    return re.findall(r"VmHWM:.*", pathlib.Path("/proc/self/status").read_text())[0]


def main() -> None:
    """Prints seconds for a random picture of 1000 x 600, after a first one, and the process's peak memory."""
    weights = load(sys.argv[1])
    pixels = as_tensor(np.random.default_rng(0).normal(scale=50, size=(1, 3, 600, 1000)).astype(np.float32))
    detect(weights, pixels, 0.5)
    start = time.perf_counter()
    detect(weights, pixels, 0.5)
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s, {peak_memory()}")


if __name__ == "__main__":
    main()
