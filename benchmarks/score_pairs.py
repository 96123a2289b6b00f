"""Times scoring every caption with every image: ``score_all_pairs`` against each pair from scratch at full padding.

python benchmarks/score_pairs.py [--size=tiny|base] [--captions=240] [--images=48] [--pairs_per_step=256]
python benchmarks/score_pairs.py --checkpoint=runs/flickr30k-scenes [--images=100]

Both run in one process on the same random captions (14 pieces on average, 30 at most) and images (10 to 36 regions),
or, with a checkpoint, on held-out captions and images of the embedded data; then their ranks are compared too.
Compilation is not timed: each way runs once before it is timed.
"""

import argparse
import dataclasses
import pathlib
import platform
import runpy
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vilbert_jax as vj
from vilbert_jax import cli
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.evaluation import all_pairs
from vilbert_jax.metrics import ranks
from vilbert_jax.model import init_params
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks.choice import option_logits
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.tasks.retrieval import Captions

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT_LENGTH, NUM_REGIONS, IMAGES_PER_STEP = 30, 36, 16


class RandomImages:
    """10 to 36 regions, padded to 36."""

    def __init__(self, count: int, feature_dim: int):
        rng = np.random.default_rng(0)
        self._images = [self._image(rng, int(rng.integers(10, NUM_REGIONS + 1)), feature_dim) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> dict[str, np.ndarray]:
        """The fields of ``TaskRegions``."""
        return self._images[index]

    def _image(self, rng: np.random.Generator, used: int, feature_dim: int) -> dict[str, np.ndarray]:
        return {
            "stored_features": rng.integers(0, 128, (NUM_REGIONS, feature_dim), np.int8),
            "feature_scales": np.full(NUM_REGIONS, 0.01, np.float32),
            "global_feature": rng.random(feature_dim, np.float32),
            "region_boxes": rng.random((NUM_REGIONS + 1, 5), np.float32),
            "region_mask": np.arange(NUM_REGIONS + 1) < used + 1,
        }


def random_captions(count: int, vocab_size: int) -> list[np.ndarray]:
    """Lengths spread as those of Flickr30k: 14 pieces on average, few long ones, cut to 30."""
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.gamma(6, 11 / 6, count).round().astype(int) + 3, 5, TEXT_LENGTH)
    return [rng.integers(1, vocab_size, length).astype(np.int32) for length in lengths]


def score_from_scratch(
    run: Callable[..., jax.Array], params: Any, captions: list[np.ndarray], images: Any, pairs_per_step: int
) -> np.ndarray:
    """[captions, images]: the whole model for every pair; one image meets ``pairs_per_step`` captions a step."""
    steps = range(0, len(captions), pairs_per_step)
    length = max(TEXT_LENGTH, max(map(len, captions)))
    token_ids = np.zeros((len(steps) * pairs_per_step, length), np.int32)
    for row, ids in zip(token_ids, captions, strict=False):
        row[: len(ids)] = ids
    mask = (token_ids > 0) | (np.arange(length) == 0)
    columns = []
    for k in range(len(images)):
        image = images.image(k)
        parts = [run(params, token_ids[i : i + pairs_per_step], mask[i : i + pairs_per_step], image) for i in steps]
        columns.append(np.concatenate([np.asarray(part) for part in parts])[: len(captions)])
    return np.stack(columns, axis=1)


def whole_model(model: vj.ViLBERTForTasks) -> Callable[..., jax.Array]:
    """The compiled model on captions [P,T], all with one image."""

    def run(params: Any, token_ids: jax.Array, mask: jax.Array, image: dict[str, jax.Array]) -> jax.Array:
        rows = len(token_ids)
        batch = {name: jnp.broadcast_to(field[None], (rows, *field.shape)) for name, field in image.items()}
        features = task_features(batch)
        words = (token_ids, jnp.zeros_like(token_ids), mask)
        inputs = vj.Inputs(*words, features, batch["region_boxes"], batch["region_mask"])
        output = model.apply({"params": params}, inputs, deterministic=True)
        assert isinstance(output, vj.TaskOutput)
        return option_logits(output.logits, model.heads[0], 1)[:, 0]

    return jax.jit(run)


def timed(score: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """The scores, and seconds of the second of two runs."""
    score()
    start = time.perf_counter()
    return np.array(score()), time.perf_counter() - start


class Setting(NamedTuple):
    """What is timed."""

    model: vj.ViLBERTForTasks
    params: Any
    captions: list[np.ndarray]
    images: Any


def at_random(asked: argparse.Namespace) -> Setting:
    """Random parameters, captions and images of the sizes asked for."""
    config = vj.ViLBERTConfig.tiny() if asked.size == "tiny" else vj.ViLBERTConfig.base()
    config = dataclasses.replace(config, initializer_range=0.05)  # so that scores differ
    model = vj.ViLBERTForTasks(config, ("alignment",))
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
    images = RandomImages(asked.images, config.region_feature_dim)
    return Setting(model, params, random_captions(asked.captions, config.vocab_size), images)


def from_checkpoint(asked: argparse.Namespace) -> Setting:
    """A trained model with the captions of held-out pictures."""
    head = "choice" if "choice" in open_source(asked.checkpoint).heads else "alignment"
    model, params = vj.load_pretrained(asked.checkpoint, heads=(head,))
    assert isinstance(model, vj.ViLBERTForTasks)
    recipe = runpy.run_path(str(ROOT / "configs" / "flickr30k.py"))["get_config"]("scenes")
    recipe.data_dir = asked.data_dir
    source = cli.build_task(recipe).open(f"test[:{asked.images}]", training=False)
    assert isinstance(source, Captions)
    return Setting(model, params, [source.caption_tokens(k) for k in range(len(source))], source.images)


def main() -> None:
    """Prints pairs a second of both ways, their ratio, and how far their scores are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "base"), default="tiny")
    parser.add_argument("--captions", type=int, default=240)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--pairs_per_step", type=int, default=256)
    parser.add_argument("--checkpoint", default="", help="of retrieval on the embedded data, or a pre-training run")
    parser.add_argument("--data_dir", default="", help="TFDS folder of the embedded data")
    asked = parser.parse_args()
    model, params, captions, images = from_checkpoint(asked) if asked.checkpoint else at_random(asked)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    run = whole_model(model)

    def cached() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            sizes = {
                "captions_per_step": asked.pairs_per_step // IMAGES_PER_STEP,
                "images_per_step": IMAGES_PER_STEP,
            }
            scores = all_pairs.score_all_pairs(
                model, params, captions, images, mesh=mesh, folder=folder, identity={}, progress=False, **sizes
            )
            return np.array(scores)

    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, jax {jax.__version__}, {model.config.dtype}, {asked}")
    pairs = len(captions) * len(images)
    expected, slow = timed(lambda: score_from_scratch(run, params, captions, images, asked.pairs_per_step))
    found, fast = timed(cached)
    print(f"each pair from scratch {pairs / slow:10.1f} pairs/s")
    print(f"score_all_pairs        {pairs / fast:10.1f} pairs/s")
    print(f"ratio                  {slow / fast:10.2f}")
    print(f"largest difference     {np.abs(found - expected).max():10.1e} of scores that spread {expected.std():.2g}")
    if asked.checkpoint:
        own = np.arange(len(captions)) // (len(captions) // len(images))
        differing = int((ranks(found, own) != ranks(expected, own)).sum())
        print(f"captions ranked differently {differing} of {len(captions)}")


if __name__ == "__main__":
    main()
