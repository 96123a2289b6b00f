"""Exact scores of every caption with every image, each stream's own layers run once, padding left out, resumable.

N captions, U different ones, M images, c captions and m images a step, T text length, S region slots (slot 0 is the
global region), F feature width, Dt width of the text stream. P images share a row of Lr region places, and a step has
c x g rows, g = m / P: each caption P times beside the P images of a row. Source: the ranking protocol of
vilbert-multi-task's ``eval_retrieval.py``, which runs the whole model at full padding for each of the N x M pairs.

Nothing is approximated: up to the first co-attention layer a caption does not know its image, pairs that share a row do
not see each other, and of the last layers only what the head reads is computed (tests/unit/test_all_pairs.py scores the
pairs from scratch too).
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax import Array
from jax.sharding import Mesh

from vilbert_jax.errors import InputError
from vilbert_jax.evaluation.blocks import (
    Layout,
    blocks_of_like_size,
    layout_of,
    mixed_blocks,
    num_slots_in_use,
    padded_captions,
    region_places,
    stacked_images,
    without_repeats,
)
from vilbert_jax.evaluation.pair_rows import every_pair
from vilbert_jax.evaluation.score_file import ScoreFile
from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.nn.packing import to_rows
from vilbert_jax.sharding import batch_sharding, num_batch_shards, state_shardings
from vilbert_jax.tasks.choice import option_logits
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.trunk import Trunk

_TILES_A_COMMIT = 16  # what a kill can cost


class Images(Protocol):
    """The images to score, in the order of the columns."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> Mapping[str, np.ndarray]:
        """The fields of ``vilbert_jax.data.task_regions.TaskRegions`` of one image."""
        ...


class _Texts(NamedTuple):
    """At most c different captions of one bucket, begun; the last block of a bucket is filled up."""

    rows: np.ndarray  # [c'] int64, numbers among the different captions
    text: np.ndarray  # [c,T,Dt]
    text_mask: np.ndarray  # [c,T] bool


def score_all_pairs(
    model: ViLBERTForTasks,
    params: Mapping[str, Any],
    captions: Sequence[np.ndarray],
    images: Images,
    *,
    mesh: Mesh,
    folder: str | os.PathLike[str],
    identity: Mapping[str, Any],
    task_id: int | None = None,
    captions_per_step: int = 16,
    images_per_step: int = 32,
    progress: bool = True,
) -> np.ndarray:
    """Scores every caption with every image.

    The score is the choice head's logit, or the alignment head's logit of "matches" minus that of "does not": it
    orders as the probability does, which float32 rounds to 1 for many pairs. Captions of equal token ids are scored
    once, so they tie exactly. Scores have the precision of ``model.config.dtype``: rank with float32, bfloat16 makes
    ties.

    Memory on the host: the begun states of the different captions, U x T x Dt numbers (246 MB for Flickr30k's 5,000
    test captions of 16 pieces in float32), and one block of images; scores are memory-mapped. On the device: the
    parameters and one step of c x m pairs.

    Args:
        model: with the one head "choice" or "alignment".
        params: its parameters, on the host or on any mesh.
        captions: N int32 arrays of word piece ids, [CLS] and [SEP] included, each of its own length.
        images: M images.
        mesh: of one process; pairs are spread over its batch axes.
        folder: for this matrix alone; a killed run goes on where it stopped, a finished one is only read.
        identity: what the scores depend on (fingerprints of checkpoint, vocabulary and store, split), JSON-able.
        task_id: of a model with task tokens.
        captions_per_step: c.
        images_per_step: m.
        progress: shows pairs done and time left.

    Returns:
        [N,M] float32, memory-mapped from ``folder``.

    Raises:
        InputError: the model has other heads, a caption or image cannot be used, c x m does not divide over the mesh,
            ``folder`` holds scores of something else, or a score is not finite.
    """
    _check(model, captions, images, mesh, task_id, captions_per_step * images_per_step)
    unique, members = without_repeats(captions)
    caption_blocks = blocks_of_like_size([len(ids) for ids in unique], captions_per_step)
    num_slots = [num_slots_in_use(images.image(k)) for k in range(len(images))]
    image_blocks = mixed_blocks(num_slots, images_per_step)
    ours = {  # what decides the scores and the tiles beside what the caller names
        "head": model.heads[0],
        "model": model.config.to_dict(),
        "task_id": task_id,
        "pairs_per_step": [captions_per_step, images_per_step],
        "captions": _digest(captions),
        "region_slots": _digest([np.array(num_slots)]),
        "image_blocks": _digest(image_blocks),
    }
    num_tiles = len(image_blocks) * len(caption_blocks)
    meaning = {**identity, **{f"all_pairs.{name}": value for name, value in ours.items()}}
    file = ScoreFile(folder, (len(captions), len(images)), num_tiles, meaning)
    if file.done.all():
        return file.scores
    params = jax.device_put(dict(params), state_shardings(params, mesh))
    step = _compiled(model, mesh)  # pyright: ignore[reportArgumentType]: flax modules can be hashed
    texts = [
        _begin_texts(step, params, [unique[k] for k in block], block, length, captions_per_step, task_id)
        for length, block in caption_blocks
    ]
    done = file.done.reshape(len(image_blocks), len(caption_blocks))
    pairs = np.array([[len(columns) * len(rows) for _, rows in caption_blocks] for columns in image_blocks])
    layout = layout_of(num_slots, image_blocks, captions_per_step, images_per_step, num_batch_shards(mesh))
    pending: list[int] = []
    with tqdm.tqdm(
        total=int(pairs.sum()), initial=int(pairs[done].sum()), unit=" pairs", unit_scale=True, disable=not progress
    ) as bar:
        for tile, rows, columns, scores in _tiles(step, params, texts, images, layout, done):
            for row, line in zip(rows.tolist(), scores, strict=True):
                file.scores[np.ix_(members[row], columns)] = line[None]
            pending.append(tile)
            bar.update(scores.size)
            if len(pending) == _TILES_A_COMMIT:
                file.commit(pending)
                pending = []
    file.commit(pending)
    return file.scores


class _Steps:
    """The compiled programs; each compiles once for every bucket."""

    def __init__(self, model: ViLBERTForTasks, mesh: Mesh):
        trunk, head = Trunk(model.config), model.heads[0]
        self.replicated = jax.NamedSharding(mesh, jax.P())
        by_pair = batch_sharding(mesh)
        run = functools.partial(trunk.apply, deterministic=True)

        def begin_text(params: Any, token_ids: Array, mask: Array, task_id: Array | None) -> tuple[Array, Array]:
            words = (token_ids, jnp.zeros_like(token_ids), mask, task_id)
            return run({"params": params["trunk"]}, *words, method=Trunk.begin_text)  # pyright: ignore[reportReturnType]

        def begin_regions(params: Any, batch: Mapping[str, Array], places: Array) -> Array:
            regions = (task_features(batch), batch["region_boxes"], batch["region_mask"])
            begun = run({"params": params["trunk"]}, *regions, method=Trunk.begin_regions)
            return to_rows(begun, places)  # pyright: ignore[reportArgumentType]

        def finish(
            params: Any, text: Array, text_mask: Array, regions: Array, region_mask: Array, places: Array
        ) -> Array:
            begun = every_pair(text, text_mask, regions, region_mask, places)
            begun = jax.lax.with_sharding_constraint(begun, by_pair)
            output = model.apply({"params": params}, begun, deterministic=True, pooled_only=True)
            logits = output.logits[head]  # pyright: ignore[reportAttributeAccessIssue]
            return option_logits({head: logits.astype(jnp.float32)}, head, len(region_mask))

        self.begin_text = jax.jit(begin_text, out_shardings=self.replicated)
        self.begin_regions = jax.jit(begin_regions, out_shardings=self.replicated)
        self.finish = jax.jit(finish, out_shardings=self.replicated)

    def put(self, x: Any) -> Any:
        """A copy on every device: a block of captions or images is small beside the pairs made of it."""
        return jax.device_put(x, self.replicated)


@functools.lru_cache(maxsize=2)
def _compiled(model: ViLBERTForTasks, mesh: Mesh) -> _Steps:
    """The programs of a model; kept, since a training run scores the validation split again and again."""
    return _Steps(model, mesh)


def _begin_texts(
    step: _Steps,
    params: Any,
    captions: list[np.ndarray],
    numbers: np.ndarray,
    length: int,
    rows: int,
    task_id: int | None,
) -> _Texts:
    token_ids, mask = padded_captions(captions, length, rows)
    tasks = None if task_id is None else np.full(rows, task_id, np.int32)
    return _Texts(numbers, *jax.device_get(step.begin_text(params, *step.put((token_ids, mask, tasks)))))


def _tiles(
    step: _Steps,
    params: Any,
    texts: Sequence[_Texts],
    images: Images,
    layout: Layout,
    done: np.ndarray,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (number of the tile, its captions, its images, scores) of every tile that is not done."""
    running = None
    for k, rows in enumerate(layout.rows):
        if done[k].all():
            continue
        columns, (there,) = rows.reshape(-1), np.nonzero(rows.reshape(-1) >= 0)
        read = {i: _finite_image(images, i) for i in columns[there].tolist()}
        fields = stacked_images([read.get(i, read[columns[there[0]]]) for i in columns.tolist()], layout.num_slots)
        batch, places = step.put((fields, region_places(fields["region_mask"], rows, layout.num_places)))
        regions = step.begin_regions(params, batch, places)
        for j in np.flatnonzero(~done[k]).tolist():
            text, text_mask = step.put((texts[j].text, texts[j].text_mask))
            scores = step.finish(params, text, text_mask, regions, batch["region_mask"], places)
            previous, running = running, (k * len(texts) + j, texts[j].rows, columns, scores)
            if previous is not None:  # fetched while the next tile runs
                yield _fetched(*previous)
    if running is not None:
        yield _fetched(*running)


def _finite_image(images: Images, index: int) -> Mapping[str, np.ndarray]:
    """One image. What is not finite would spoil the images beside it: 0 x NaN is NaN."""
    fields = images.image(index)
    broken = sorted(name for name, x in fields.items() if x.dtype.kind == "f" and not np.isfinite(x).all())
    if broken:
        raise InputError(
            f"image {index} has NaN or infinity in {', '.join(broken)}; a ranking needs finite scores: build its "
            "region store again"
        )
    return fields


def _fetched(
    tile: int, rows: np.ndarray, columns: np.ndarray, scores: Array
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Scores without the rows and columns that fill up a step."""
    found, columns = np.asarray(scores)[: len(rows), columns >= 0], columns[columns >= 0]
    if not np.isfinite(found).all():
        at = np.argwhere(~np.isfinite(found))[0]
        raise InputError(
            f"image {columns[at[1]]} has the score {found[tuple(at)]} with a caption; a ranking needs finite scores: "
            "check the parameters for NaN and infinity"
        )
    return tile, rows, columns, found


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.int64(len(array)).tobytes())
        digest.update(np.asarray(array, np.int32).tobytes())
    return digest.hexdigest()[:32]


def _check(
    model: ViLBERTForTasks,
    captions: Sequence[np.ndarray],
    images: Images,
    mesh: Mesh,
    task_id: int | None,
    pairs_per_step: int,
) -> None:
    config, shards = model.config, num_batch_shards(mesh)
    if model.heads not in (("choice",), ("alignment",)):
        raise InputError(f"scoring pairs needs one head, choice or alignment; the model has {list(model.heads)}")
    if not len(captions) or not len(images):
        raise InputError(
            f"there are {len(captions)} captions and {len(images)} images to score; give at least one each"
        )
    if pairs_per_step < 1 or pairs_per_step % shards:
        raise InputError(
            f"{pairs_per_step} pairs a step (captions_per_step x images_per_step) do not divide over data x fsdp = "
            f"{shards}; choose a multiple of {shards}"
        )
    for k, ids in enumerate(captions):
        if not 0 < len(ids) <= config.max_text_length:
            raise InputError(
                f"caption {k} has {len(ids)} word pieces; expected 1 to {config.max_text_length}: shorten it as "
                "training did"
            )
    if (task_id is None) == bool(config.num_task_embeddings) or not 0 <= (task_id or 0) < max(
        config.num_task_embeddings, 1
    ):
        raise InputError(
            f"task_id is {task_id}, but the model has {config.num_task_embeddings} task tokens; give the one it was "
            "trained with, or None for a model without"
        )
