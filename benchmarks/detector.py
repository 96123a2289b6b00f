"""Times the public detector stage by stage against plain PyTorch, and pictures a second, and memory.

python benchmarks/detector.py [--parts=stages,memory,speed,chunks] [--repeats=5]     # the first two need torch
python benchmarks/detector.py --parts=speed,chunks --batch_sizes=1,8,32              # any device

ResNet-101-C4 in the Caffe flavour, a picture of 1000 x 600 in its canvas of 1008 x 608, 300 proposals, float32, random
weights and random pictures. Both sides read one weights file. Each stage is given the same arrays on both sides, what
PyTorch's stage before it found, and the two take turns. Nothing is timed in its first run, which compiles.
torch_detector.py says how plain the other side is. Peak memory is that of two processes of their own, each with the
network and one picture, detected twice.
"""

import argparse
import dataclasses
import functools
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.detectors import Detector, load_detector, make_detector, save_detector
from vilbert_jax.detector.anchors import make_anchors
from vilbert_jax.detector.backbone import map_sizes
from vilbert_jax.detector.config import CAFFE, DetectorConfig
from vilbert_jax.detector.detections import detect, select_detections
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.heads import RegionHead, Regions
from vilbert_jax.detector.pictures import Pictures, blank_pictures
from vilbert_jax.detector.pooling import pool_regions, range_maxima
from vilbert_jax.detector.preparation import canvas_of
from vilbert_jax.detector.proposals import ProposalHead, Proposals, rank_anchors
from vilbert_jax.detector.selection import Best, ClassAgnostic, Confident
from vilbert_jax.detector.suppression import Suppression, suppress
from vilbert_jax.extraction.extractor import RegionExtractor

HEIGHT, WIDTH, SCALE = 600, 1000, 0.5
PARTS = ("stages", "memory", "speed", "chunks")
HERE = pathlib.Path(__file__).resolve()


def random_detector() -> Detector:
    """Seeded weights whose signal neither grows nor fades on its way, and classes that differ between regions."""
    model = FasterRCNN(DetectorConfig.resnet101_c4(CAFFE))
    params = jax.jit(model.init)(jax.random.key(0), blank_pictures())["params"]
    leaves: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(params))
    for path in leaves:
        if path[-2:] == ("conv3", "scale"):
            leaves[path] *= 0.2
    leaves["backbone", "stem", "conv1", "variance"] *= 1e4
    leaves["region_head", "classes", "kernel"] *= 5.0
    leaves["proposal_head", "anchors"] = make_anchors((64, 128, 256, 512), (0.5, 1.0, 2.0))
    return make_detector(model, traverse_util.unflatten_dict(leaves), family="random")


def random_pixels(rows: int) -> np.ndarray:
    """[rows, 600, 1000, 3]: patches with noise on them, the mean subtracted."""
    rng = np.random.default_rng(0)
    patches = rng.normal(scale=50, size=(rows, 19, 32, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return (patches + rng.normal(scale=20, size=patches.shape))[:, :HEIGHT, :WIDTH].astype(np.float32)


def random_pictures(rows: int) -> Pictures:
    """The same in their canvas, on the device."""
    pixels = np.zeros((rows, *canvas_of((HEIGHT, WIDTH), CAFFE), 3), np.float32)
    pixels[:, :HEIGHT, :WIDTH] = random_pixels(rows)
    sizes = np.tile(np.array([HEIGHT, WIDTH], np.int32), (rows, 1))
    return Pictures(*jax.device_put((pixels, sizes, np.full((rows, 2), SCALE, np.float32))))


class Stage(NamedTuple):
    """The same work on both sides, and how their results compare."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    compare: Callable[[Any, Any], str]


def proposal_stages(detector: Detector, plain: Any, weights: Any) -> Iterator[Stage]:
    """From pixels to 300 boxes; ``plain`` is the module torch_detector."""
    model, config, pictures = detector.model, detector.model.config, random_pictures(1)
    pixels = plain.as_tensor(random_pixels(1).transpose(0, 3, 1, 2))
    feature_map = jax.jit(functools.partial(model.apply, method="feature_map"))
    run = functools.partial(plain.feature_map, weights, pixels)
    params = jax.device_put(detector.params)
    yield Stage("backbone", functools.partial(feature_map, {"params": params}, pictures), run, largest_difference)

    cells = run()
    ours = on_device(cells)

    @jax.jit
    def judge(params: Any, feature_map: jax.Array, pictures: Pictures) -> Proposals:
        anchors = ProposalHead(config).apply({"params": params}, feature_map)
        return rank_anchors(anchors, *pictures[1:], feature_map.shape[1:3], config)  # pyright: ignore[reportArgumentType]

    run = functools.partial(plain.candidates, weights, cells, (HEIGHT, WIDTH), SCALE)
    judged = functools.partial(judge, params["proposal_head"], ours, pictures)
    yield Stage("proposal head, best 6000", judged, run, lambda a, b: differing(a.boxes[0], b))

    boxes = run()
    rule = Suppression(config.proposal_overlap, inclusive=True, plus_one=True)
    keep = jax.jit(functools.partial(suppress, rule=rule, max_kept=config.max_proposals))
    kept = functools.partial(keep, on_device(boxes), jnp.ones(len(boxes), bool))
    run = functools.partial(plain.suppress, boxes, 0.7, inclusive=True, plus_one=True, max_kept=config.max_proposals)
    yield Stage("suppression to 300", kept, run, lambda a, b: differing(a[0][a[1]], b))


def region_stages(detector: Detector, plain: Any, weights: Any) -> Iterator[Stage]:
    """From a feature map and 300 boxes to what a store gets of them."""
    config, pictures = detector.model.config, random_pictures(1)
    cells = plain.feature_map(weights, plain.as_tensor(random_pixels(1).transpose(0, 3, 1, 2)))
    boxes = plain.proposals(weights, cells, (HEIGHT, WIDTH), SCALE)
    sizes, proposed = map_sizes(pictures.sizes), on_device(boxes)[None]
    pool = jax.jit(lambda cells, boxes, sizes: pool_regions(range_maxima(cells, 14), boxes, sizes, 14))
    pooled = functools.partial(pool, on_device(cells), proposed, sizes)
    run = functools.partial(plain.pool_regions, cells, boxes)
    yield Stage("pooling of 300", pooled, run, lambda a, b: differing(a[0], b))

    regions, head = run(), RegionHead(config)
    params = jax.device_put({"params": detector.params["region_head"]})
    by_chunk = on_device(regions).reshape(-1, 1, config.regions_per_chunk, 14, 14, config.map_width)

    @jax.jit
    def res5(params: Any, chunks: jax.Array) -> jax.Array:
        apply = functools.partial(head.apply, params, method="pooled_features")
        return jax.lax.map(apply, chunks).reshape(-1, config.feature_width)

    run = functools.partial(plain.region_features, weights, regions)
    described = functools.partial(res5, params, by_chunk)
    yield Stage("res5 and mean", described, run, largest_difference)
    at_once = functools.partial(run, at_once=len(boxes))
    yield Stage("  all regions at once there", described, at_once, largest_difference)

    features = run()
    predict = jax.jit(functools.partial(head.apply, method="predict"))
    predicted = functools.partial(predict, params, on_device(features)[None])
    run = functools.partial(plain.predict, weights, features)
    yield Stage("predictors", predicted, run, lambda a, b: largest_difference(a.class_logits[0], b.class_logits))

    outputs = run()
    ours = Regions(*(on_device(array)[None] for array in outputs))
    found = Proposals(proposed, jnp.zeros(proposed.shape[:2]), jnp.ones(proposed.shape[:2], bool))
    for rule, choose in (
        (Confident(), functools.partial(plain.select_confident, boxes * SCALE, outputs)),
        (Best(), functools.partial(plain.select_best, boxes * SCALE, outputs)),
        (ClassAgnostic(), functools.partial(plain.select_class_agnostic, boxes, outputs, (HEIGHT, WIDTH), SCALE)),
    ):
        select = jax.jit(functools.partial(select_detections, rule=rule, flavour=config.flavour))
        selected = functools.partial(select, pictures, found, ours)
        yield Stage(f"selection, {type(rule).__name__}", selected, choose, lambda a, b: differing(a.rows[a.mask], b))


def whole(detector: Detector, plain: Any, weights: Any) -> Iterator[Stage]:
    """From pixels to kept regions; each side has its own proposals here."""
    pixels = plain.as_tensor(random_pixels(1).transpose(0, 3, 1, 2))
    ours = functools.partial(compiled(detector, 1), jax.device_put(detector.params), random_pictures(1))
    theirs = functools.partial(plain.detect, weights, pixels, SCALE)
    yield Stage("all of it", ours, theirs, lambda a, b: differing(a.boxes[a.mask], b[0]))


def on_device(tensor: Any) -> jax.Array:
    """A tensor as an array; maps with channels last."""
    array = tensor.numpy()
    return jax.device_put(np.ascontiguousarray(np.moveaxis(array, 1, -1) if array.ndim == 4 else array))


def largest_difference(ours: jax.Array, theirs: Any) -> str:
    """In shares of the largest value."""
    expected = np.asarray(on_device(theirs))
    return f"differ by {np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max():.0e} of the largest"


def differing(ours: jax.Array, theirs: Any) -> str:
    """How many rows are not the same, up to rounding."""
    found, expected = np.array(ours, ndmin=1), np.array(on_device(theirs), ndmin=1)
    if found.shape != expected.shape:
        return f"{found.shape} here, {expected.shape} there"
    same = np.isclose(found, expected, rtol=0, atol=1e-2).all(axis=tuple(range(1, found.ndim)))
    return f"{(~same).sum()} of {found.shape[0]} rows differ"


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def compare(stage: Stage, repeats: int) -> None:
    """Prints median seconds of both sides, their ranges, the ratio of the medians, and how results compare."""
    times: tuple[list[float], list[float]] = [], []
    compared = stage.compare(stage.ours(), stage.theirs())
    is_short = timed(stage.ours) < 0.5
    for _ in range(4 * repeats if is_short else repeats):
        for side, seconds in zip((stage.ours, stage.theirs), times, strict=True):
            seconds.append(timed(side))
    ours, theirs = (statistics.median(seconds) for seconds in times)
    ranges = [f"{min(seconds):.4f}-{max(seconds):.4f}" for seconds in times]
    print(f"{stage.name:28}{ours:9.4f}{theirs:9.4f}{ours / theirs:7.2f}  {' '.join(ranges)}  {compared}", flush=True)


def compiled(detector: Detector, rows: int) -> Any:
    """``detect`` for so many pictures of one canvas."""
    run = jax.jit(functools.partial(detect, detector.model, rule=Confident()))
    return run.lower(detector.params, random_pictures(rows)).compile()


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Median, after a run that is not timed."""
    return statistics.median([timed(run) for _ in range(repeats + 1)][1:])


def print_speed(detector: Detector, batch_sizes: list[int], repeats: int) -> None:
    """Pictures a second of ``detect`` alone, and of extraction from raw 500 x 300 pixels, by batch size."""
    params = jax.device_put(detector.params)
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    for rows in batch_sizes:
        program = compiled(detector, rows)
        alone = rows / seconds_of(functools.partial(program, params, random_pictures(rows)), repeats)
        extractor = RegionExtractor(detector, Confident(), batch_size=rows)
        extract = functools.partial(lambda e, n: list(e.extract([("", picture)] * n)), extractor, 2 * rows)
        extracted = 2 * rows / seconds_of(extract, 1)
        print(f"batch {rows:3}: detect {alone:8.3f}, extraction {extracted:8.3f} pictures/s", flush=True)


def print_chunks(detector: Detector, sizes: list[int], repeats: int) -> None:
    """Time and temporary memory of ``detect`` by how many regions run through res5 at once."""
    params, pictures = jax.device_put(detector.params), random_pictures(1)
    for size in sizes:
        config = dataclasses.replace(detector.model.config, regions_per_chunk=size)
        program = compiled(detector._replace(model=FasterRCNN(config)), 1)
        memory = program.memory_analysis()
        megabytes = "unknown" if memory is None else f"{memory.temp_size_in_bytes / 2**20:.0f} MB"
        seconds = seconds_of(functools.partial(program, params, pictures), repeats)
        print(f"{size:3} regions at once: {seconds:8.3f} s, temporary {megabytes}", flush=True)


def print_memory(weights: pathlib.Path) -> None:
    """Peak memory of a process with one side alone."""
    commands = {"jax": [HERE, f"--alone={weights}"], "torch": [HERE.with_name("torch_detector.py"), weights]}
    for side, command in commands.items():
        done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
        print(f"{side:6} {done.stdout.strip()}", flush=True)


def run_alone(weights: str) -> None:
    """What ``print_memory`` starts: prints seconds for a picture and the process's peak memory."""
    detector = load_detector(weights)
    params, pictures = jax.device_put(detector.params), random_pictures(1)
    seconds = seconds_of(functools.partial(compiled(detector, 1), params, pictures), 1)
    peak = re.findall(r"VmHWM:.*", pathlib.Path("/proc/self/status").read_text())[0]
    print(f"{seconds:.2f} s, {peak}")


def main() -> None:
    """Prints the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch_sizes", default="1,2")
    parser.add_argument("--chunks", default="5,10,20,50")
    parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        return run_alone(asked.alone)
    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, jax {jax.__version__}, float32, {asked}", flush=True)
    detector, parts = random_detector(), asked.parts.split(",")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "detector.safetensors"
        save_detector(path, detector)
        if "memory" in parts:
            print_memory(path)
        if "stages" in parts:
            import torch_detector  # only here: it is slow to start, and not everybody has torch

            weights = torch_detector.load(str(path))
            print(f"{'stage':28}{'jax s':>9}{'torch s':>9}{'ratio':>7}  ranges")
            for stages in (proposal_stages, region_stages, whole):
                for stage in stages(detector, torch_detector, weights):
                    compare(stage, asked.repeats)
    if "speed" in parts:
        print_speed(detector, [int(rows) for rows in asked.batch_sizes.split(",")], asked.repeats)
    if "chunks" in parts:
        print_chunks(detector, [int(size) for size in asked.chunks.split(",")], asked.repeats)


if __name__ == "__main__":
    main()
