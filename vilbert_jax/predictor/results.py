"""What a predictor gives back: small tuples that print as people read them and turn into JSON.

m region slots of a picture (slot 0 is the whole picture), t tokens of a text, W width of the pooled vectors, Dt and Dv
widths of the two streams.
"""

from typing import Any, NamedTuple

import numpy as np

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture

_NUM_PRINTED = 5  # candidates


class Word(NamedTuple):
    """One of several guesses."""

    text: str
    score: float  # 0..1


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        text: the best answer.
        score: how sure the model is, 0..1: the sigmoid of its logit. The head judges every answer by itself, so the
            scores of different answers do not add up to 1.
        top: the best answers, best first; of equal ones the one that the head lists first.
    """

    text: str
    score: float
    top: tuple[Word, ...]

    def __str__(self) -> str:
        """One answer a line."""
        return _lines(self.top)


class Candidate(NamedTuple):
    """A box that an expression may mean."""

    box: Corners
    score: float  # 0..1
    region: int  # its slot: 0 is the whole picture, k the k-th region


class Grounded(NamedTuple):
    """What an expression means.

    Attributes:
        box: the best box.
        score: how sure the model is, 0..1: the sigmoid of its logit. Every box is judged by itself.
        region: slot of the box: 0 is the whole picture, k the k-th region.
        candidates: all boxes, best first; of equal ones the lower slot.
    """

    box: Corners
    score: float
    region: int
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        """The best boxes, one a line, and how many more there are."""
        shown = [
            Word("the whole picture" if not k else f"region {k}: {_pixels(box)}", score)
            for box, score, k in self.candidates[:_NUM_PRINTED]
        ]
        more = len(self.candidates) - len(shown)
        return _lines(shown) + (f"\n        and {more} more" if more else "")


class Filled(NamedTuple):
    """A text whose blanks are filled.

    Attributes:
        text: with the likeliest word piece in every blank, as the vocabulary spells it.
        blanks: for every blank the likeliest word pieces and their probabilities; ``##`` continues a word.
    """

    text: str
    blanks: tuple[tuple[Word, ...], ...]

    def __str__(self) -> str:
        """The text, then the guesses for every blank."""
        return "\n".join([self.text, *("\n" * (k > 0) + _lines(words) for k, words in enumerate(self.blanks))])


class Embedding(NamedTuple):
    """States of the model's last layers, float32. What belongs to a side that was not given is None.

    Attributes:
        pair: [W], the pooled vectors fused into one, which heads of answers and of pairs read; None unless both sides
            were given.
        text_pooled: [W]; with one stream it stands for the pair.
        text: [t,Dt].
        tokens: t word pieces, [CLS] and [SEP] included, and [TASK] where the model has a task token.
        regions_pooled: [W]; None with one stream.
        regions: [m,Dv].
        boxes: [m,4] float32, x1, y1, x2, y2 in pixels.
    """

    pair: np.ndarray | None
    text_pooled: np.ndarray | None
    text: np.ndarray | None
    tokens: tuple[str, ...] | None
    regions_pooled: np.ndarray | None
    regions: np.ndarray | None
    boxes: np.ndarray | None

    def __repr__(self) -> str:
        """Shapes instead of numbers."""
        shown = (
            f"{name}={list(value.shape)}" if isinstance(value, np.ndarray) else f"{name}={value}"
            for name, value in self._asdict().items()
        )
        return f"Embedding({', '.join(shown)})"


class Attention(NamedTuple):
    """Where the model looks."""

    boxes: np.ndarray  # [m,4] float32, x1, y1, x2, y2 in pixels, the whole picture first
    shares: np.ndarray  # [m] float32, of the attention of [CLS] in the last layer where text reads regions; sums to 1

    def __str__(self) -> str:
        """The regions that are looked at most, one a line."""
        best = np.argsort(-self.shares, kind="stable")[:_NUM_PRINTED].tolist()
        names = ["  ".join(f"{x:6.1f}" for x in self.boxes[k].tolist()) if k else "the whole picture" for k in best]
        return _lines([Word(name, float(self.shares[k])) for name, k in zip(names, best, strict=True)])


def to_json(result: Any) -> Any:
    """A result as json.dumps takes it: tuples with names become objects, other tuples and arrays lists."""
    if isinstance(result, np.ndarray):
        return result.tolist()
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        return {name: to_json(value) for name, value in result._asdict().items()}  # pyright: ignore[reportAttributeAccessIssue]
    return [to_json(value) for value in result] if isinstance(result, tuple | list) else result


def _pixels(box: Corners) -> str:
    x1, y1, x2, y2 = box
    return f"x {x1:.1f} to {x2:.1f}, y {y1:.1f} to {y2:.1f}"


def _lines(words: Any) -> str:
    return "\n".join(f"{100 * word.score:6.1f}%  {word.text}" for word in words)
