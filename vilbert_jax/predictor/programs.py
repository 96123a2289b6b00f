"""A checkpoint's compiled programs: any number of pairs of a text and a picture, in few shapes.

A pair is read by itself, whatever else is in its batch. Texts are padded to one of a few lengths, regions to one of a
few numbers, batches to a power of two; what stands in padding is never attended to.

B rows of a batch, T text length (one more with a task token), S region slots (slot 0 is the whole picture), P predicted
positions, t and m tokens and slots of one pair, V vocabulary, K outputs of a head.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.region_codec import StoredRegions
from vilbert_jax.data.task_regions import TaskRegions, arrange
from vilbert_jax.data.transforms import pad_rows
from vilbert_jax.errors import InputError
from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.tasks.choice import option_logits
from vilbert_jax.tasks.region_attention import last_text_attention
from vilbert_jax.tasks.task import Batch, text_inputs
from vilbert_jax.trunk import Inputs, Trunk

PAIR_HEADS = ("choice", "alignment")

_TEXT_LENGTHS = (16, 32, 64, 128, 256)
_NUM_REGIONS = (16, 36, 64, 100)


class Pair(NamedTuple):
    """What the model reads together."""

    token_ids: np.ndarray  # [t] int32, [CLS] and [SEP] included
    regions: StoredRegions | None  # None: a blank picture, one region of which nothing is known
    positions: tuple[int, ...] = ()  # tokens whose words are asked for


class States(NamedTuple):
    """Final states of one pair; the task token is in the text."""

    text: np.ndarray  # [t,Dt], [t + 1,Dt] with a task token
    regions: np.ndarray  # [m,Dv]
    text_pooled: np.ndarray  # [W]
    regions_pooled: np.ndarray | None  # [W]; None with one stream
    pair: np.ndarray  # [W]


Program = Callable[[Mapping[str, Any], Batch], Any]


class Programs:
    """Runs the model over pairs; a program compiles on its first batch of a shape, once for all models of a config."""

    def __init__(self, config: ViLBERTConfig, params: Mapping[str, Any], *, max_regions: int, batch_size: int) -> None:
        """Keeps the parameters.

        Args:
            config: of the model.
            params: of the trunk and all heads that are asked for.
            max_regions: regions of a picture that the model reads, the first ones.
            batch_size: pairs that run at once.
        """
        self._config, self._params = config, params
        self._max_regions, self._batch_size = max_regions, batch_size

    def scores(self, head: str, pairs: Sequence[Pair], task_id: int | None = None) -> list[np.ndarray]:
        """float32 logits of a head for every pair.

        [K] of answer heads; [m] of ``grounding``; [positions,V] of ``tokens``; [] of ``choice`` and ``alignment``, of
        the latter matching minus not matching.

        Raises:
            InputError: a score is NaN or infinite.
        """
        found: list[np.ndarray] = []
        for chunk, batch, scores in self._run(_head_program(self._config, head), pairs, task_id):
            for row, (pair, values) in enumerate(zip(chunk, scores, strict=False)):
                if head == "grounding":
                    values = values[batch["region_mask"][row]]
                elif head == "tokens":
                    values = values[: len(pair.positions)]
                found.append(_finite(values))
        return found

    def states(self, pairs: Sequence[Pair], task_id: int | None = None) -> list[States]:
        """The final states of every pair, without padding, float32.

        Raises:
            InputError: one is NaN or infinite.
        """
        extra = task_id is not None
        found: list[States] = []
        for chunk, batch, states in self._run(_states_program(self._config), pairs, task_id):
            for row, pair in enumerate(chunk):
                of_row = States(*(None if values is None else _finite(values[row]) for values in states))  # pyright: ignore[reportArgumentType]
                text, regions = of_row.text[: len(pair.token_ids) + extra], of_row.regions[batch["region_mask"][row]]
                found.append(of_row._replace(text=text, regions=regions))
        return found

    def attention(self, pairs: Sequence[Pair], task_id: int | None = None) -> list[np.ndarray]:
        """[m] float32 for every pair: what [CLS] attends to, see ``vilbert_jax.tasks.region_attention``."""
        found: list[np.ndarray] = []
        for chunk, batch, sown in self._run(_attention_program(self._config), pairs, task_id):
            attention = last_text_attention({"trunk": sown}, batch["region_mask"], batch["token_ids"].shape[1])[:, 0]
            found += [_finite(attention[row][batch["region_mask"][row]]) for row in range(len(chunk))]
        return found

    def slot_boxes(self, regions: StoredRegions) -> np.ndarray:
        """[m,4] float32, x1, y1, x2, y2 in pixels: the boxes of a picture's slots, the whole picture first."""
        return arrange(regions, max_regions=min(len(regions.boxes), self._max_regions)).boxes

    def _run(
        self, program: Program, pairs: Sequence[Pair], task_id: int | None
    ) -> Iterator[tuple[Sequence[Pair], dict[str, np.ndarray], Any]]:
        """Yields pairs that ran together, their batch, and what came out for it, on the host."""
        for start in range(0, len(pairs), self._batch_size):
            chunk = pairs[start : start + self._batch_size]
            batch = self._batch(chunk)
            if task_id is not None:
                batch["task_id"] = np.full(len(batch["token_ids"]), task_id, np.int32)
            yield chunk, batch, jax.device_get(program(self._params, batch))

    def _batch(self, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
        """The pairs padded; the last one is repeated to fill the batch."""
        config = self._config
        num_rows = min(_power_of_two(len(pairs)), self._batch_size)
        length = _padded_size(max(len(pair.token_ids) for pair in pairs), _TEXT_LENGTHS, config.max_text_length)
        num_regions = max(len(pair.regions.boxes) if pair.regions else 1 for pair in pairs)
        num_regions = _padded_size(min(num_regions, self._max_regions), _NUM_REGIONS, self._max_regions)
        num_positions = _power_of_two(max(len(pair.positions) for pair in pairs))
        rows = [self._row(pair, length, num_regions, num_positions) for pair in pairs]
        rows += [rows[-1]] * (num_rows - len(rows))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, pair: Pair, length: int, num_regions: int, num_positions: int) -> dict[str, np.ndarray]:
        if pair.regions is None:
            regions = _blank(num_regions, self._config.region_feature_dim)
        else:
            regions = arrange(pair.regions, max_regions=num_regions).regions
        # One dtype for every way to store features: it would be another program.
        features = regions.stored_features * regions.feature_scales[:, None]
        regions = regions._replace(stored_features=features, feature_scales=np.ones_like(regions.feature_scales))
        return {
            "token_ids": pad_rows(pair.token_ids, length),
            "token_types": np.zeros(length, np.int32),
            "text_mask": np.arange(length) < len(pair.token_ids),
            "positions": pad_rows(np.array(pair.positions, np.int32), num_positions),
            **regions._asdict(),
        }


@functools.lru_cache(maxsize=16)
def _head_program(config: ViLBERTConfig, head: str) -> Program:
    model = ViLBERTForTasks(config, heads=(head,))

    def scores(params: Mapping[str, Any], batch: Batch) -> Array:
        output: Any = model.apply({"params": params}, _inputs(batch), deterministic=True)
        logits = output.logits[head].astype(jnp.float32)
        if head in PAIR_HEADS:
            return option_logits({head: logits}, head, 1)[:, 0]
        if head == "tokens":
            # The task token stands in second place; [CLS], the only token before it, is no blank.
            positions = batch["positions"] + (1 if "task_id" in batch else 0)
            return jnp.take_along_axis(logits, positions[..., None], axis=1)
        return logits

    return jax.jit(scores)


@functools.lru_cache(maxsize=16)
def _states_program(config: ViLBERTConfig) -> Program:
    trunk = Trunk(config)

    def states(params: Mapping[str, Any], batch: Batch) -> States:
        encoded: Any = trunk.apply({"params": params["trunk"]}, _inputs(batch), deterministic=True)
        pair: Any = trunk.apply({"params": params["trunk"]}, encoded, method=Trunk.fuse)
        return jax.tree.map(lambda x: x.astype(jnp.float32), States(*encoded, pair=pair))

    return jax.jit(states)


@functools.lru_cache(maxsize=16)
def _attention_program(config: ViLBERTConfig) -> Program:
    trunk = Trunk(config)

    def sown(params: Mapping[str, Any], batch: Batch) -> Any:
        options = dict(deterministic=True, mutable=["intermediates"])
        return trunk.apply({"params": params["trunk"]}, _inputs(batch), **options)[1]["intermediates"]  # pyright: ignore[reportArgumentType]

    return jax.jit(sown)


def _inputs(batch: Batch) -> Inputs:
    return text_inputs(batch)._replace(task_id=batch.get("task_id"))


def _blank(num_regions: int, feature_dim: int) -> TaskRegions:
    """What ``blank_pictures`` shows of a picture, in a single slot."""
    return TaskRegions(
        stored_features=np.zeros((num_regions, feature_dim), np.float32),
        feature_scales=np.zeros(num_regions, np.float32),
        global_feature=np.zeros(feature_dim, np.float32),
        region_boxes=np.zeros((num_regions + 1, 5), np.float32),
        region_mask=np.arange(num_regions + 1) < 1,
    )


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(
            "the model computed NaN or infinity: check the checkpoint's parameters and the region features"
        )
    return values


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _padded_size(size: int, sizes: Sequence[int], most: int) -> int:
    return next((padded for padded in sizes if size <= padded < most), most)
