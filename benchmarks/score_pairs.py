"""Times scoring every caption with every image: ``score_all_pairs`` and PyTorch at full padding, in turns.

python benchmarks/score_pairs.py [--size=base|tiny] [--captions=96] [--images=32] [--scratch] [--repeats=3]
python benchmarks/score_pairs.py --checkpoint=runs/flickr30k-scenes [--images=100]

Random parameters, captions and images as long as ``lengths.py`` says. PyTorch computes the trunk and the alignment head
for pairs padded to 36 words and 37 regions, 64 at a time, with all heads too (``torch_all_heads``), as the released
evaluation runs it. ``--scratch`` adds the JAX model on each pair from scratch at full padding and compares the scores.
With a checkpoint these two score captions and images of the embedded data, and their rankings are compared. Every side
works once before it is timed, so compilation is not in the times.
"""

# torch is optional, and types are checked without it.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import functools
import pathlib
import runpy
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lengths
import numpy as np
from product import product_side
from turns import Side, Timed, Work, compare, spread, table

import vilbert_jax as vj
from vilbert_jax import cli
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.evaluation import all_pairs
from vilbert_jax.metrics import ranks
from vilbert_jax.model import init_params
from vilbert_jax.model_size import forward_flops
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks.choice import option_logits
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.tasks.retrieval import Captions

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMAGES_PER_STEP, TORCH_PAIRS, SCRATCH_PAIRS = 32, 64, 128


class RandomImages:
    """As many regions as ``lengths.real`` says, padded to 36."""

    def __init__(self, count: int, feature_dim: int):
        rng = np.random.default_rng(0)
        self._images = [self._image(rng, used, feature_dim) for used in lengths.real(count).regions.tolist()]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> dict[str, np.ndarray]:
        """The fields of ``TaskRegions``."""
        return self._images[index]

    def _image(self, rng: np.random.Generator, used: int, feature_dim: int) -> dict[str, np.ndarray]:
        return {
            "stored_features": rng.integers(0, 128, (lengths.NUM_REGIONS, feature_dim), np.int8),
            "feature_scales": np.full(lengths.NUM_REGIONS, 0.01, np.float32),
            "global_feature": rng.random(feature_dim, np.float32),
            "region_boxes": rng.random((lengths.NUM_REGIONS + 1, 5), np.float32),
            "region_mask": np.arange(lengths.NUM_REGIONS + 1) < used + 1,
        }


class Setting(NamedTuple):
    """What is timed."""

    model: vj.ViLBERTForTasks
    params: Any
    captions: list[np.ndarray]
    images: Any


def setting(asked: argparse.Namespace) -> Setting:
    """A trained model with captions of held-out pictures, or everything at random."""
    if asked.checkpoint:
        head = "choice" if "choice" in open_source(asked.checkpoint).heads else "alignment"
        model, params = vj.load_pretrained(asked.checkpoint, heads=(head,))
        assert isinstance(model, vj.ViLBERTForTasks)
        recipe = runpy.run_path(str(ROOT / "configs" / "flickr30k.py"))["get_config"]("scenes")
        recipe.data_dir = asked.data_dir
        source = cli.build_task(recipe).open(f"test[:{asked.images}]", training=False)
        assert isinstance(source, Captions)
        return Setting(model, params, [source.caption_tokens(k) for k in range(len(source))], source.images)
    config = vj.ViLBERTConfig.tiny() if asked.size == "tiny" else vj.ViLBERTConfig.base()
    config = dataclasses.replace(config, initializer_range=0.05)  # so that scores differ
    model = vj.ViLBERTForTasks(config, ("alignment",))
    params = jax.jit(lambda key: init_params(model, key))(jax.random.key(0))
    rng, pieces = np.random.default_rng(1), lengths.real(asked.captions, seed=1).pieces
    captions = [rng.integers(1, config.vocab_size, count + 2).astype(np.int32) for count in pieces.tolist()]
    return Setting(model, params, captions, RandomImages(asked.images, config.region_feature_dim))


def jax_side(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """``score_all_pairs``."""
    model, params, captions, images = given = setting(asked)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    sizes = {"captions_per_step": asked.pairs_per_step // IMAGES_PER_STEP, "images_per_step": IMAGES_PER_STEP}

    def score() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            return np.array(
                all_pairs.score_all_pairs(
                    model, params, captions, images, mesh=mesh, folder=folder, identity={}, progress=False, **sizes
                )
            )

    return _facts(given, score()), functools.partial(_done, score)


def scratch_side(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """The whole JAX model on every pair at full padding; one image meets many captions a step."""
    model, params, captions, images = given = setting(asked)

    def scores(params: Any, token_ids: jax.Array, mask: jax.Array, image: dict[str, jax.Array]) -> jax.Array:
        rows = len(token_ids)
        batch = {name: jnp.broadcast_to(field[None], (rows, *field.shape)) for name, field in image.items()}
        words = (token_ids, jnp.zeros_like(token_ids), mask)
        inputs = vj.Inputs(*words, task_features(batch), batch["region_boxes"], batch["region_mask"])
        output = model.apply({"params": params}, inputs, deterministic=True)
        assert isinstance(output, vj.TaskOutput)
        return option_logits(output.logits, model.heads[0], 1)[:, 0]

    run, step = jax.jit(scores), min(SCRATCH_PAIRS, len(captions))
    starts = range(0, len(captions), step)
    length = max(lengths.TEXT_LENGTH, max(map(len, captions)))
    token_ids = np.zeros((len(starts) * step, length), np.int32)
    for row, ids in zip(token_ids, captions, strict=False):
        row[: len(ids)] = ids
    mask = (token_ids > 0) | (np.arange(length) == 0)

    def score() -> np.ndarray:
        columns = []
        for k in range(len(images)):
            parts = [run(params, token_ids[i : i + step], mask[i : i + step], images.image(k)) for i in starts]
            columns.append(np.concatenate([np.asarray(part) for part in parts])[: len(captions)])
        return np.stack(columns, axis=1)

    return _facts(given, score()), functools.partial(_done, score)


def torch_side(asked: argparse.Namespace, *, all_heads: bool = False) -> tuple[Mapping[str, Any], Work]:
    """Some padded pairs; what is in them does not change the time."""
    import torch
    from torch_vilbert import Batch, TorchViLBERT

    config = vj.ViLBERTConfig.tiny() if asked.size == "tiny" else vj.ViLBERTConfig.base()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = TorchViLBERT(config).to(device).eval()
    shape, slots = (TORCH_PAIRS, lengths.TEXT_LENGTH), lengths.NUM_REGIONS + 1
    nothing = torch.zeros(0)
    batch = Batch(
        token_ids=torch.randint(1, config.vocab_size, shape, device=device),
        token_types=torch.zeros(shape, dtype=torch.long, device=device),
        text_mask=torch.ones(shape, dtype=torch.bool, device=device),
        region_features=torch.rand(TORCH_PAIRS, slots, config.region_feature_dim, device=device),
        region_boxes=torch.rand(TORCH_PAIRS, slots, 5, device=device),
        region_mask=torch.ones(TORCH_PAIRS, slots, dtype=torch.bool, device=device),
        token_labels=nothing, region_targets=nothing, region_selected=nothing, alignment_labels=nothing,
    )  # fmt: skip

    def work() -> None:
        with torch.inference_mode():
            logits = model(batch).alignment if all_heads else model.align(*model.encode(batch))
            logits.sum().item()  # waits for the device

    work()
    return {"device": str(device), "pairs": TORCH_PAIRS}, work


def torch_all_heads(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """With vocabulary and region logits, which ranking does not need."""
    return torch_side(asked, all_heads=True)


def _done(score: Callable[[], np.ndarray]) -> None:
    score()


def _facts(given: Setting, scores: np.ndarray) -> dict[str, Any]:
    config, images = given.model.config, given.images
    tokens = [len(ids) for ids in given.captions]
    slots = [int(images.image(k)["region_mask"].sum()) for k in range(len(images))]
    return {
        "device": jax.devices()[0].device_kind,
        "pairs": scores.size,
        "flops_a_pair": sum(forward_flops(config, t, s) for t in tokens for s in slots) / scores.size,
        "mean_tokens": float(np.mean(tokens)),
        "mean_slots": float(np.mean(slots)),
        "scores": scores.tolist(),
    }


def report(timed: Mapping[str, Timed], asked: argparse.Namespace) -> str:
    """Pairs a second of every side, and how far scores are apart."""
    ours = timed["score_all_pairs"]
    rate, facts = ours.facts["pairs"] / ours.median, ours.facts
    rows = [
        [name, spread([side.facts["pairs"] / seconds for seconds in side.seconds]), f"{side.peak_bytes / 1e9:.2f}",
         f"{rate * side.median / side.facts['pairs']:.2f}"]
        for name, side in timed.items() if name != "product"
    ]  # fmt: skip
    lines = [
        f"scoring pairs, {asked.checkpoint or asked.size}, float32, {len(facts['scores'])} captions of "
        f"{facts['mean_tokens']:.1f} tokens, {len(facts['scores'][0])} images of {facts['mean_slots']:.1f} region "
        f"slots on average; {facts['device']}",
        table(["", "pairs/s (range)", "peak GB", "score_all_pairs is faster by"], rows),
    ]
    if "product" in timed:
        roof = max(result["flops_a_second"] for result in timed["product"].results)
        lines.append(
            f"largest product {roof / 1e9:.0f} GFLOP/s; whole forward passes of real length at that rate would be "
            f"{roof / facts['flops_a_pair']:.1f} pairs/s"
        )
    if "scratch" in timed:
        found, expected = np.array(facts["scores"]), np.array(timed["scratch"].facts["scores"])
        own = np.arange(len(found)) // max(len(found) // found.shape[1], 1)
        lines.append(
            f"largest difference {np.abs(found - expected).max():.1e} of scores that spread {expected.std():.2g}"
            + (f"; {(ranks(found, own) != ranks(expected, own)).sum()} captions ranked differently"
               if asked.checkpoint else "")
        )  # fmt: skip
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--captions", type=int, default=96)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--pairs_per_step", type=int, default=128)
    parser.add_argument("--scratch", action="store_true", help="with the JAX model on each pair from scratch")
    parser.add_argument("--checkpoint", default="", help="of retrieval on the embedded data, or a pre-training run")
    parser.add_argument("--data_dir", default="", help="TFDS folder of the embedded data")
    parser.add_argument("--repeats", type=int, default=3)
    return parser


SIDES = {
    "score_all_pairs": jax_side, "scratch": scratch_side, "torch": torch_side, "torch_all_heads": torch_all_heads,
    "product": product_side,
}  # fmt: skip


def sides(asked: argparse.Namespace) -> list[Side]:
    """Those that are compared: of a checkpoint the two that read it."""
    torch = [] if asked.checkpoint else [Side("torch", needs="torch"), Side("torch_all_heads", needs="torch")]
    scratch = [Side("scratch")] if asked.scratch or asked.checkpoint else []
    return [Side("score_all_pairs"), *scratch, *torch, *([] if asked.checkpoint else [Side("product")])]


def main() -> None:
    """Times the sides, or is one of them."""
    compare(__file__, arguments(), sides, SIDES, report)


if __name__ == "__main__":
    main()
