"""Caption-based image retrieval (Flickr30k, COCO), fine-tuned or straight from pre-training.

B batch, T text length, S region slots, K = 4 pairs of a training example, M images, C captions of an image. Paper
section 3.2; pairs as ``retreival_dataset.py`` and ranking as ``eval_retrieval.py`` of the released code.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax.data.annotations import data_folder
from vilbert_jax.data.examples import Examples, ExamplesConfig, texts_of
from vilbert_jax.data.hard_negatives import load_or_find
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.metrics import choice_correct, coco_folds, ranks, retrieval_metrics
from vilbert_jax.tasks.choice import choice_loss, option_inputs, option_logits, shares
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.tasks.submission_checks import checked_entries, require
from vilbert_jax.tasks.task import Batch, Guess, Logits, Predictions, Scored, Shown
from vilbert_jax.trunk import Inputs

Head = Literal["choice", "alignment"]

NUM_LISTED = 20  # images listed for a caption in predictions.json, as in the released code
_IMAGE_OF_PAIR = np.array([0, 0, 1, 0])  # of a row's two images; its captions are four already
_REGION_FIELDS = ("region_boxes", "region_mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval:
    """The task. Training and model selection choose among four pairs; an evaluation ranks all images for all captions.

    Attributes:
        data: what the examples are made of.
        head: ``choice``, which fine-tuning trains, or ``alignment``, that of pre-training (zero-shot retrieval).
        num_hard: nearest images, by mean region feature, that a hard negative is drawn from in training.
        num_folds: an evaluation also takes the mean over so many folds of consecutive images; 0 for none.
    """

    data: ExamplesConfig
    head: Head = "choice"
    num_hard: int = 100
    num_folds: int = 0

    metric = "accuracy"

    def __post_init__(self) -> None:
        """Raises InputError for a head or a number that cannot work."""
        if self.head not in get_args(Head):
            raise InputError(f"head is {self.head!r}; use one of {', '.join(get_args(Head))}")
        if self.num_hard < 1:
            raise InputError(f"num_hard is {self.num_hard}; draw hard negatives from at least 1 image")

    @property
    def heads(self) -> tuple[str, ...]:
        """The one head that scores a pair."""
        return (self.head,)

    def open(self, split: str, *, training: bool) -> "Captions":
        """The captions of a split; training looks for hard negatives first, once, and keeps them beside the data."""
        examples = self.data.open(split, ("captions",))
        counts = {len(texts_of(examples.rows[k]["captions"])) for k in range(len(examples))}
        if len(counts) != 1 or 0 in counts:
            raise InputError(
                f"data set {self.data.annotations!r} has images with {sorted(counts)} captions; ranking needs equally "
                "many for every image: build it again from the official file"
            )
        if len(examples) < 2:
            raise InputError(f"split {split!r} has one image with regions; retrieval needs others to tell it from")
        return Captions(examples, counts.pop(), self._neighbours(examples) if training else None)

    def outputs(self, source: "Captions") -> dict[str, tuple[str, ...]]:
        """One logit a pair means nothing else."""
        del source
        return {}

    def inputs(self, batch: Batch) -> Inputs:
        """Four rows an example: its four captions with its two images, the second one in the third row."""
        features = task_features(batch)
        chosen = (jnp.asarray(x)[:, _IMAGE_OF_PAIR] for x in (features, *(batch[name] for name in _REGION_FIELDS)))
        return option_inputs(batch, *chosen)

    def loss(self, logits: Logits, batch: Batch) -> WeightedSum:
        """Cross-entropy over the four pairs; the first one is right."""
        scores = option_logits(logits, self.head, len(_IMAGE_OF_PAIR))
        return choice_loss(scores, jnp.zeros(scores.shape[0], jnp.int32), batch)

    def predict(self, logits: Logits, batch: Batch) -> dict[str, Array]:
        """``shares`` [B,4] float32: softmax over the pairs."""
        del batch
        return {"shares": shares(option_logits(logits, self.head, len(_IMAGE_OF_PAIR)))}

    def score(self, source: "Captions", predictions: Predictions) -> Scored:
        """Accuracy of the four-way choice.

        An example whose right pair ties with others counts as guessing among them would: the right pair stands first,
        so a model that scores all pairs alike would else be the best one.
        """
        pairs = predictions["shares"]
        right = choice_correct(pairs, np.zeros(len(source), np.int64))
        rows = right / (pairs == pairs.max(axis=1, keepdims=True)).sum(axis=1)
        return Scored(rows, {"accuracy": 100 * float(rows.mean())})

    def score_all(self, source: "Captions", scores: np.ndarray) -> Scored:
        """Recalls both ways from scores [captions, images]; a row's score is 1 where its image comes first.

        With ``num_folds``, ``folds/...`` are the means over folds: COCO's "1K" numbers of its 5,000 images.
        """
        own = np.arange(len(source)) // source.captions_an_image
        metrics = retrieval_metrics(scores, source.captions_an_image)
        if self.num_folds > 1:
            folds = coco_folds(scores, self.num_folds, source.captions_an_image)
            metrics |= {f"folds/{name}": value for name, value in folds.items()}
        percent = {name: value if name.endswith("_rank") else 100 * value for name, value in metrics.items()}
        return Scored((ranks(scores, own) == 0).astype(np.float64), percent)

    def submission(self, source: "Captions", predictions: Predictions) -> list[dict[str, Any]]:
        """One entry a caption: the best twenty images, from ``predictions["best"]`` [captions, 20]."""
        image_ids = [source.examples.image_id(k) for k in range(len(source.examples))]
        return [
            {
                "image_id": image_ids[index // source.captions_an_image],
                "caption": index % source.captions_an_image,
                "images": [image_ids[k] for k in best.tolist()],
            }
            for index, best in enumerate(predictions["best"])
        ]

    def check_submission(self, source: "Captions", submission: Any) -> None:
        """Raises InputError unless every caption has up to twenty different images of the split."""
        image_ids = [source.examples.image_id(k) for k in range(len(source.examples))]
        known = set(image_ids)
        wanted = [(image_id, k) for image_id in image_ids for k in range(source.captions_an_image)]
        for where, entry in checked_entries(submission, ("image_id", "caption"), wanted):
            images: Any = entry.get("images")
            listed = isinstance(images, list) and all(isinstance(image_id, str) for image_id in images)
            require(listed, where, entry, "images", "a list of image ids")
            require(1 <= len(images) <= NUM_LISTED, where, entry, "images", f"1 to {NUM_LISTED} of them")
            require(len(set(images)) == len(images), where, entry, "images", "different ones")
            unknown = next((image_id for image_id in images if image_id not in known), None)
            require(unknown is None, where, entry, "images", f"images of the split, which {unknown!r} is not")

    def show(self, source: "Captions", index: int, predictions: Predictions) -> Shown:
        """The caption's own picture, and the images that the model ranks first."""
        own = index // source.captions_an_image
        best, share = predictions["best"][index][:4], predictions["shares"][index][:4]
        names = [(source.examples.image_id(int(k)), float(p), int(k) == own) for k, p in zip(best, share, strict=True)]
        return Shown(
            image_id=source.examples.image_id(own),
            text=source.caption(index),
            truth=source.examples.image_id(own),
            guesses=tuple(Guess(*guess, image_id=guess[0]) for guess in names),
        )

    def _neighbours(self, examples: Examples) -> np.ndarray:
        image_ids = [examples.image_id(k) for k in range(len(examples))]
        folder = data_folder(self.data.data_dir) / "hard_negatives"
        return load_or_find(folder, examples.stores[0], image_ids, k=self.num_hard)


def best_images(scores: np.ndarray, count: int = NUM_LISTED) -> dict[str, np.ndarray]:
    """The best images of every caption, lower index first among equals, as ``predictions``.

    Args:
        scores: [captions, images].
        count: how many.

    Returns:
        ``best`` [captions, count] int64 and ``shares`` [captions, count], their softmax over all images.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return {"best": best, "shares": np.take_along_axis(weights / weights.sum(1, keepdims=True), best, axis=1)}


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one split."""

    examples: Examples

    def __len__(self) -> int:
        """M."""
        return len(self.examples)

    def image(self, index: int) -> dict[str, np.ndarray]:
        """The region fields of an image."""
        return self.examples.region_fields(self.examples.arrangement(self.examples.image_id(index)))


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of one split, image after image."""

    examples: Examples
    captions_an_image: int
    neighbours: np.ndarray | None  # [M,k] int32: nearest images, in training

    def __len__(self) -> int:
        """Number of captions."""
        return len(self.examples) * self.captions_an_image

    def caption(self, index: int) -> str:
        """A caption."""
        image, k = divmod(index, self.captions_an_image)
        return texts_of(self.examples.rows[image]["captions"])[k]

    def caption_tokens(self, index: int) -> np.ndarray:
        """[n] int32: a caption as the model reads it, [CLS] and [SEP] included, not padded."""
        fields = self.examples.text_fields(self.caption(index))
        return fields["token_ids"][0][fields["text_mask"][0]]

    @property
    def images(self) -> "Images":
        """The images that the captions describe."""
        return Images(self.examples)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Four pairs, the first one right: text fields [4,T] and region fields of two images [2, ...].

        (image, caption), (image, another image's caption), (another image, caption), (image, a hard negative's
        caption). Where there are no neighbours to draw from, outside training, the last one is drawn at random too.
        """
        image = index // self.captions_an_image
        other_text, other_image = (self._other_image(image, rng) for _ in range(2))
        hard = self._other_image(image, rng)
        if self.neighbours is not None:
            hard = int(self.neighbours[image, rng.integers(self.neighbours.shape[1])])
        own = self.caption(index)
        wrong = [self._some_caption(other, rng) for other in (other_text, hard)]
        regions = [self.images.image(number) for number in (image, other_image)]
        return {
            **self.examples.text_fields(own, wrong[0], own, wrong[1]),
            **{name: np.stack([fields[name] for fields in regions]) for name in regions[0]},
        }

    def _other_image(self, image: int, rng: np.random.Generator) -> int:
        drawn = int(rng.integers(len(self.examples) - 1))
        return drawn + (drawn >= image)

    def _some_caption(self, image: int, rng: np.random.Generator) -> str:
        return self.caption(image * self.captions_an_image + int(rng.integers(self.captions_an_image)))
