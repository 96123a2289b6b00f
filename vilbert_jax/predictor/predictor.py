"""One object from pictures and sentences to answers, boxes, scores, words and vectors.

N images, M texts, m region slots of a picture (slot 0 is the whole picture).
"""

import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from vilbert_jax.checkpoints.detectors import Detector
from vilbert_jax.config import DType
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.checks import check_flag, check_number
from vilbert_jax.predictor.choosing import as_embedding, best_answers, best_boxes, best_words
from vilbert_jax.predictor.lists import are_many, check_counts, listed, paired
from vilbert_jax.predictor.opening import given_settings, open_checkpoint
from vilbert_jax.predictor.programs import Pair, Programs
from vilbert_jax.predictor.region_reader import Image, RegionReader
from vilbert_jax.predictor.region_sources import Extracts, open_sources
from vilbert_jax.predictor.results import Answer, Attention, Embedding, Filled, Grounded

Texts = str | Sequence[str]
Images = Image | Sequence[Image]


class Predictor:
    """A checkpoint, and a detector that looks at pictures for it.

    A picture is a path, the bytes of a file, a PIL image, an array, a ``RegionRecord`` (regions that were found before)
    or, with ``store``, an image id. Where a list of pictures or of texts is given, a list comes back: two lists of one
    length go pair by pair, a single picture or text goes with every member of the other list. What a picture shows the
    detector is looked up once, however many questions follow.

    The detector is a file that ``load_detector`` reads or a ``Detector``, either of which then looks as the paper's did
    (10 to 36 boxes), at one picture a step and on one device; or a ``RegionExtractor``, with a selection rule, a batch
    size and devices of its own.

    Where the checkpoint says how its fine-tuning read (``task_token``, ``max_regions``, ``text_length``), the predictor
    reads so, too; what is given goes before it.

    Attributes:
        heads: that the checkpoint has.
        config: of the model.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        detector: str | os.PathLike[str] | Detector | Extracts | None = None,
        *,
        store: str | os.PathLike[str] | RegionStore | None = None,
        vocab: str | os.PathLike[str] | None = None,
        answer_labels: str | os.PathLike[str] | None = None,
        task_token: int | None = None,
        max_regions: int | None = None,
        text_length: int | None = None,
        batch_size: int = 32,
        cache_size: int = 128,
        dtype: DType = "float32",
        allow_other_features: bool = False,
    ) -> None:
        """Loads the checkpoint and the detector.

        Args:
            checkpoint: a run, a checkpoint or saved folder of this project, or a released ViLBERT file.
            detector: looks at pictures; without it there are only regions that were found before.
            store: region store, whose pictures are named by their ids.
            vocab: vocabulary, for files that come without it: ``vocab.txt``, tokenizer folder or hub name.
            answer_labels: the answers in the order of the outputs, likewise: JSON or pickle file, or checkpoint folder.
            task_token: number of the task, for models that have task tokens; every method takes another one.
            max_regions: of a picture with more regions the model reads the first so many; by default 100.
            text_length: tokens of a text that the model reads, special ones included; a longer text loses its tail.
                By default nothing is cut, and what exceeds the model's positions is refused.
            batch_size: pairs of a text and a picture that run at once.
            cache_size: pictures whose regions are remembered.
            dtype: of the computation.
            allow_other_features: go on although the checkpoint was trained on other region features.

        Raises:
            InputError: something cannot be read, or does not belong to the checkpoint.
        """
        check_number("batch_size", batch_size, least=1)
        check_number("cache_size", cache_size, least=0)
        check_flag("allow_other_features", allow_other_features)
        given = given_settings({"task_token": task_token, "max_regions": max_regions, "text_length": text_length})
        sources = open_sources(store, detector)
        opened = open_checkpoint(
            checkpoint, vocab=vocab, answer_labels=answer_labels, settings=given, dtype=dtype,
            contracts=sources.contracts, allow_other_features=allow_other_features,
        )  # fmt: skip
        self._opened, self.config, self.heads = opened, opened.config, opened.heads
        self._texts = opened.text_reader()
        self._regions = RegionReader(sources, feature_dim=self.config.region_feature_dim, cache_size=cache_size)
        most = opened.settings.max_regions
        self._programs = Programs(self.config, opened.params, max_regions=most, batch_size=batch_size)

    def __repr__(self) -> str:
        """What it is of."""
        return f"Predictor({self._opened.origin!r}, heads={list(self.heads)})"

    @overload
    def answer(self, image: Image, question: str, *, top_k: int = ..., task_token: int | None = ...) -> Answer: ...
    @overload
    def answer(self, image: Images, question: Texts, *, top_k: int = ..., task_token: int | None = ...) -> Any: ...
    def answer(self, image: Images, question: Texts, *, top_k: int = 5, task_token: int | None = None) -> Any:
        """Answers questions about pictures, from the answers that the head knows.

        Args:
            image: picture or pictures.
            question: text or texts.
            top_k: how many answers to give; fewer where the head has fewer.
            task_token: instead of the predictor's.

        Returns:
            An ``Answer``, or a list of them.

        Raises:
            InputError: no head for it, nothing says which answers there are, or the input cannot be used.
        """
        check_number("top_k", top_k, least=1)
        head = self._opened.head("answer questions", "vqa", "gqa")
        labels = self._opened.labels(head).answers
        token = self._opened.task_token(task_token)
        pairs, is_one = self._pairs(image, question)
        scores = self._programs.scores(head, pairs, token)
        answers = [best_answers(logits, labels, top_k) for logits in scores]
        return answers[0] if is_one else answers

    @overload
    def ground(
        self, image: Image, expression: str, *, whole_image: bool | None = ..., task_token: int | None = ...
    ) -> Grounded: ...
    @overload
    def ground(
        self, image: Images, expression: Texts, *, whole_image: bool | None = ..., task_token: int | None = ...
    ) -> Any: ...
    def ground(
        self, image: Images, expression: Texts, *, whole_image: bool | None = None, task_token: int | None = None
    ) -> Any:
        """Finds what expressions mean.

        Args:
            image: picture or pictures.
            expression: text or texts.
            whole_image: whether the whole picture is a candidate. By default as in the checkpoint's fine-tuning, where
                it says it; else it is, as in the released code.
            task_token: instead of the predictor's.

        Returns:
            A ``Grounded``, or a list of them.

        Raises:
            InputError: no head for it, or the input cannot be used.
        """
        is_candidate = self._opened.settings.whole_image if whole_image is None else whole_image
        check_flag("whole_image", is_candidate)
        head = self._opened.head("find what an expression means", "grounding")
        token = self._opened.task_token(task_token)
        pairs, is_one = self._pairs(image, expression)
        scores = self._programs.scores(head, pairs, token)
        grounded = [
            best_boxes(logits, self._boxes(pair), whole_image=is_candidate)
            for pair, logits in zip(pairs, scores, strict=True)
        ]
        return grounded[0] if is_one else grounded

    def match(self, images: Images, texts: Texts, *, task_token: int | None = None) -> np.ndarray:
        """Says how well every text fits every picture.

        With a choice head (fine-tuned for retrieval) the score is its logit, made for comparing the texts of a picture
        or the pictures of a text. Otherwise it is the alignment head's logit of "they belong together" minus that of
        "they do not": positive means that they do, and its sigmoid is the probability. Unlike probabilities, which in
        float32 are 1 for many good pairs, logits rank without ties. Every pair is computed in full; to rank thousands,
        experiments/evaluate.py is faster.

        Args:
            images: picture or pictures.
            texts: text or texts.
            task_token: instead of the predictor's.

        Returns:
            [N,M] float32; an axis of which a single one was given, not a list, is not there.

        Raises:
            InputError: no head for it, or one that was trained for VCR, or the input cannot be used.
        """
        head = self._opened.pair_head()
        token = self._opened.task_token(task_token)
        tokens = [self._texts.read(text) for text in listed(texts)]
        regions = self._regions.read(listed(images))
        pairs = [Pair(ids, found) for found in regions for ids in tokens]
        scores = np.array(self._programs.scores(head, pairs, token), np.float32).reshape(len(regions), len(tokens))
        return np.asarray(scores[slice(None) if are_many(images) else 0, slice(None) if are_many(texts) else 0])

    @overload
    def fill(self, image: Image, text: str, *, top_k: int = ..., task_token: int | None = ...) -> Filled: ...
    @overload
    def fill(self, image: Images, text: Texts, *, top_k: int = ..., task_token: int | None = ...) -> Any: ...
    def fill(self, image: Images, text: Texts, *, top_k: int = 5, task_token: int | None = None) -> Any:
        """Guesses the words behind ``[MASK]``, one word piece each, every one with all of them hidden.

        Args:
            image: picture or pictures.
            text: text or texts, with at least one ``[MASK]`` each.
            top_k: how many guesses to give.
            task_token: instead of the predictor's.

        Returns:
            A ``Filled``, or a list of them.

        Raises:
            InputError: no head for it, no ``[MASK]``, or the input cannot be used.
        """
        check_number("top_k", top_k, least=1)
        head = self._opened.head("fill a blank", "tokens")
        token = self._opened.task_token(task_token)
        pairs, is_one = self._pairs(image, text, masked=True)
        scores = self._programs.scores(head, pairs, token)
        filled = []
        for pair, logits in zip(pairs, scores, strict=True):
            best, blanks = best_words(logits, self._opened.tokenizer, top_k)
            filled.append(Filled(self._texts.filled(pair.token_ids, pair.positions, best[:, 0]), blanks))
        return filled[0] if is_one else filled

    def embed(self, *, image: Images | None = None, text: Texts | None = None, task_token: int | None = None) -> Any:
        """The model's last states of pictures, texts or pairs.

        The two streams read each other, so there is no reading one side alone. A text by itself is read with a blank
        picture, one region without features, place or size; a picture by itself with the empty text, [CLS] [SEP].

        Args:
            image: picture or pictures; None for texts alone.
            text: text or texts; None for pictures alone.
            task_token: instead of the predictor's.

        Returns:
            An ``Embedding``, or a list of them.

        Raises:
            InputError: neither is given, or the input cannot be used.
        """
        if image is None and text is None:
            raise InputError("there is nothing to embed: give image=, text=, or both")
        token = self._opened.task_token(task_token)
        check_counts(image, text)
        rows = [self._texts.empty] if text is None else [self._texts.read(one) for one in listed(text)]
        regions = [None] if image is None else self._regions.read(listed(image))
        pairs, is_one = _joined(image, regions, text, rows)
        states = self._programs.states(pairs, token)
        embedded: list[Embedding] = []
        for pair, of_pair in zip(pairs, states, strict=True):
            tokens = None if text is None else self._tokens(pair)
            boxes = None if pair.regions is None else self._boxes(pair)
            embedded.append(as_embedding(of_pair, tokens=tokens, boxes=boxes))
        return embedded[0] if is_one else embedded

    @overload
    def attention(self, image: Image, text: str, *, task_token: int | None = ...) -> Attention: ...
    @overload
    def attention(self, image: Images, text: Texts, *, task_token: int | None = ...) -> Any: ...
    def attention(self, image: Images, text: Texts, *, task_token: int | None = None) -> Any:
        """The regions that the model looks at when it reads a text: an ``Attention``, or a list of them.

        Raises:
            InputError: the input cannot be used.
        """
        token = self._opened.task_token(task_token)
        pairs, is_one = self._pairs(image, text)
        shares = self._programs.attention(pairs, token)
        attention = [Attention(self._boxes(pair), of_pair) for pair, of_pair in zip(pairs, shares, strict=True)]
        return attention[0] if is_one else attention

    def _pairs(self, image: Images, text: Texts, *, masked: bool = False) -> tuple[list[Pair], bool]:
        """Pictures with texts, and whether there is one pair that was given as no list; texts are checked first."""
        check_counts(image, text)
        read = self._texts.read_masked if masked else self._texts.read
        rows = [read(one) for one in listed(text)]
        pairs, is_one = _joined(image, self._regions.read(listed(image)), text, rows)
        if masked:
            pairs = [pair._replace(positions=self._texts.blanks(pair.token_ids)) for pair in pairs]
        return pairs, is_one

    def _boxes(self, pair: Pair) -> np.ndarray:
        assert pair.regions is not None
        return self._programs.slot_boxes(pair.regions)

    def _tokens(self, pair: Pair) -> list[str]:
        """What the model reads of a text, in words."""
        tokens = self._opened.tokenizer.tokens(pair.token_ids)
        return [tokens[0], "[TASK]", *tokens[1:]] if self.config.num_task_embeddings else tokens


def _joined(image: Any, regions: Sequence[Any], text: Any, rows: Sequence[np.ndarray]) -> tuple[list[Pair], bool]:
    """What was read of images and texts as pairs, and whether neither was given as a list."""
    regions, rows = paired([*regions], [*rows], many_images=are_many(image), many_texts=are_many(text))
    return [*map(Pair, rows, regions)], not (are_many(image) or are_many(text))
