"""Referring expressions (RefCOCO+, RefCOCO, RefCOCOg): which region of a picture does a phrase mean?

B batch, T text length, S region slots (slot 0 is the whole picture), N expressions. Paper section 3.2; targets and
candidates as ``refer_expression_dataset.py`` of the released code; scores as MAttNet's ``eval_dets_utils.py``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax import losses
from vilbert_jax.data.examples import Examples, ExamplesConfig, text_of
from vilbert_jax.data.transforms import pad_rows
from vilbert_jax.losses import WeightedSum
from vilbert_jax.metrics import box_iou, grounding_correct
from vilbert_jax.nn.heads import PADDED_REGION_LOGIT
from vilbert_jax.tasks.submission_checks import checked_entries, is_number, require
from vilbert_jax.tasks.task import Batch, Box, Guess, Logits, Predictions, Scored, Shown, text_inputs
from vilbert_jax.trunk import Inputs

_LEAST_OVERLAP = 0.5  # smaller ones count as none in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
    """The task.

    Attributes:
        data: what the examples are made of; with ``given_regions``, training also sees the annotated boxes.
        whole_image: whether the whole picture is a candidate, as in the released code.
    """

    data: ExamplesConfig
    whole_image: bool = True

    heads = ("grounding",)
    metric = "accuracy"

    def open(self, split: str, *, training: bool) -> "Expressions":
        """The expressions of a split."""
        given = "candidates" if training and self.data.given_regions else "none"
        return Expressions(
            self.data.open(split, ("sent_id", "sentence", "box"), given=given), training, self.whole_image
        )

    def outputs(self, source: "Expressions") -> dict[str, tuple[str, ...]]:
        """One logit a region means nothing else."""
        del source
        return {}

    def inputs(self, batch: Batch) -> Inputs:
        """One row an expression."""
        return text_inputs(batch)

    def loss(self, logits: Logits, batch: Batch) -> WeightedSum:
        """Sigmoid cross-entropy against the overlaps, a sum over slots."""
        scores = self._candidates(logits["grounding"])
        return losses.soft_label_loss(scores, batch["overlaps"], batch["example_mask"])

    def predict(self, logits: Logits, batch: Batch) -> dict[str, Array]:
        """``region`` [B] int32, the best slot (the first of equals), and ``share`` [B] float32, its sigmoid."""
        del batch
        scores = self._candidates(logits["grounding"]).astype(jnp.float32)
        return {"region": scores.argmax(-1).astype(jnp.int32), "share": jax.nn.sigmoid(scores.max(-1))}

    def score(self, source: "Expressions", predictions: Predictions) -> Scored:
        """``accuracy`` by the official rule, ``accuracy_vilbert_rule`` by ViLBERT's, which is kinder.

        ``possible`` is the share of expressions that any candidate answers, ``chance`` what guessing a candidate gives.
        """
        official, kinder, possible, chance = [], [], [], []
        for index, region in enumerate(predictions["region"]):
            boxes = source.boxes(index)
            wanted = np.broadcast_to(source.wanted(index), boxes.shape)
            annotated = np.broadcast_to(source.examples.rows[index]["box"], boxes.shape)
            right = grounding_correct(_xywh(boxes), annotated, rule="xywh")
            chosen = _slot(region, boxes)
            official.append(right[chosen])
            kinder.append(grounding_correct(boxes, wanted, rule="xyxy")[chosen])
            candidates = right if self.whole_image else right[1:]
            possible.append(candidates.any())
            chance.append(candidates.mean())
        named = {"accuracy": official, "accuracy_vilbert_rule": kinder, "possible": possible, "chance": chance}
        metrics = {name: 100 * float(np.mean(rows)) for name, rows in named.items()}
        return Scored(np.array(official, np.float64), metrics)

    def submission(self, source: "Expressions", predictions: Predictions) -> list[dict[str, Any]]:
        """One entry an expression: the released code's ``id``, ``target``, ``IOU``, and ``sent_id`` with the box."""
        entries = []
        for index, region in enumerate(predictions["region"]):
            boxes, row = source.boxes(index), source.examples.rows[index]
            box = _xywh(boxes[_slot(region, boxes)])
            entries.append(
                {
                    "id": text_of(row["image_id"]),
                    "sent_id": int(row["sent_id"]),
                    "target": int(region),
                    "IOU": float(box_iou(box, row["box"], rule="xywh")),
                    "box": [float(x) for x in box],
                }
            )
        return entries

    def check_submission(self, source: "Expressions", submission: Any) -> None:
        """Raises InputError unless every expression has a region of its own picture, with its overlap."""
        rows = {int(source.examples.rows[k]["sent_id"]): k for k in range(len(source))}
        for where, entry in checked_entries(submission, ("sent_id",), [(sent_id,) for sent_id in rows]):
            row = rows[entry["sent_id"]]
            image_id = source.examples.image_id(row)
            require(entry.get("id") == image_id, where, entry, "id", f"{image_id!r}, the image of the expression")
            # In blanked pictures every slot can be chosen, see _slot.
            blank, most = self.data.blank_pictures, self.data.max_regions + 1
            num_slots = most if blank else len(source.boxes(row))
            target, overlap = entry.get("target"), entry.get("IOU")
            valid = type(target) is int and 0 <= target < num_slots
            require(valid, where, entry, "target", f"a region of the picture, 0 to {num_slots - 1}")
            require(is_number(overlap) and 0 <= overlap <= 1, where, entry, "IOU", "an overlap, 0 to 1")

    def show(self, source: "Expressions", index: int, predictions: Predictions) -> Shown:
        """The expression, the annotated box and the chosen one."""
        boxes, row = source.boxes(index), source.examples.rows[index]
        region = _slot(predictions["region"][index], boxes)
        wanted = source.wanted(index)
        right = bool(grounding_correct(_xywh(boxes[region])[None], np.asarray(row["box"])[None], rule="xywh")[0])
        label = f"region {region}" if region else "the whole picture"
        return Shown(
            image_id=text_of(row["image_id"]),
            text=text_of(row["sentence"]),
            truth="",
            guesses=(Guess(label, float(predictions["share"][index]), right),),
            boxes=(Box(wanted, "meant", None), Box(boxes[region], "chosen", right)),
        )

    def _candidates(self, logits: Array) -> Array:
        """[B,S]: without the whole picture, slot 0 is as impossible as padding."""
        return logits if self.whole_image else logits.at[:, 0].add(PADDED_REGION_LOGIT)


@dataclasses.dataclass(frozen=True)
class Expressions:
    """The expressions of one split."""

    examples: Examples
    training: bool
    whole_image: bool

    def __len__(self) -> int:
        """N."""
        return len(self.examples)

    def boxes(self, index: int) -> np.ndarray:
        """[m,4] float32: the corners of the slots in use, in pixels."""
        return self.examples.arrangement(self.examples.image_id(index)).boxes

    def wanted(self, index: int) -> np.ndarray:
        """[4] float32: the corners of the annotated box; the last ones are first + size."""
        box = np.asarray(self.examples.rows[index]["box"], np.float32)
        return np.concatenate([box[:2], box[:2] + box[2:]])

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One expression: text and region fields, overlaps [S] float32 of every slot with the annotated box.

        Overlaps are ViLBERT's (inclusive pixels); training counts those below a half as none, evaluation keeps them.
        """
        del rng
        row = self.examples.rows[index]
        arrangement = self.examples.arrangement(text_of(row["image_id"]))
        overlaps = box_iou(arrangement.boxes, self.wanted(index), rule="xyxy")
        if self.training:
            overlaps = np.where(overlaps < _LEAST_OVERLAP, 0, overlaps)
        if not self.whole_image:
            overlaps[0] = 0
        return {
            **{name: values[0] for name, values in self.examples.text_fields(text_of(row["sentence"])).items()},
            **self.examples.region_fields(arrangement),
            "overlaps": pad_rows(overlaps.astype(np.float32), self.examples.config.max_regions + 1),
        }


def _slot(region: int, boxes: np.ndarray) -> int:
    """The chosen slot; of a blanked picture, whose slots all look alike, one without a box may be chosen."""
    return int(region) if region < len(boxes) else 0


def _xywh(corners: np.ndarray) -> np.ndarray:
    """[..., 4]: corners to x, y, width, height."""
    return np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)
