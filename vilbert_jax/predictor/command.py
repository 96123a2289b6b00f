"""One prediction from start to end; ``experiments/predict.py`` is its command line."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.checkpoints.detectors import load_detector
from vilbert_jax.data.annotations import open_regions
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.contract import parse_rule
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.predictor.checks import check_number
from vilbert_jax.predictor.figure import Bar, Shown, draw_answer
from vilbert_jax.predictor.predictor import Predictor
from vilbert_jax.predictor.region_reader import look_at
from vilbert_jax.predictor.results import Candidate, Word, to_json

_NO_STORE = (
    "Build one with tfds_builders/build.py region_features or experiments/extract_features.py, or give --detector"
)

_BOXES = "10-36"  # as in the paper


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The flags of ``experiments/predict.py``, described there; one of the first four is given."""

    question: str | None = None
    expression: str | None = None
    caption: tuple[str, ...] = ()
    text: str | None = None
    checkpoint: str
    image: str
    detector: str | None = None
    boxes: str | None = None
    regions: str | None = None
    vocab: str | None = None
    answer_labels: str | None = None
    task_token: int | None = None
    top_k: int = 5
    json: bool = False
    output: Path | None = None
    allow_other_features: bool = False


class _Told(NamedTuple):
    """A result in every form that is asked for."""

    lines: str
    content: Mapping[str, Any]  # for JSON
    bars: tuple[Bar, ...]
    looked_for: str  # the text whose attention is drawn
    candidates: tuple[Candidate, ...] = ()


def predict(request: Request, *, say: Callable[[str], None]) -> int:
    """Answers one request, says the answer and draws it.

    Returns:
        The exit code, 0.

    Raises:
        InputError: something cannot be used or read.
        OSError: the figure cannot be written.
    """
    if request.output is not None:
        request = dataclasses.replace(request, output=Path(os.path.expanduser(request.output)))
    _check(request)
    rule = parse_rule(request.boxes or _BOXES)
    store = None if request.regions is None else open_regions(request.regions, data_dir=None, hint=_NO_STORE)
    extractor = None
    if request.detector is not None:
        extractor = RegionExtractor(load_detector(request.detector), rule)
    elif store is not None and request.image not in store:
        raise InputError(
            f"{request.image!r} is no image of the region store {store.path}: name one that it has, or give "
            "--detector=FILE, which looks at the picture of that name"
        )
    predictor = Predictor(
        request.checkpoint,
        extractor,
        store=store,
        vocab=request.vocab,
        answer_labels=request.answer_labels,
        task_token=request.task_token,
        allow_other_features=request.allow_other_features,
    )
    told = _told(predictor, request)
    say(_printable(json.dumps(told.content, ensure_ascii=False) if request.json else told.lines))
    if request.output is not None:
        draw_answer(request.output, _shown(predictor, request, told, store))
        if not request.json:
            say(_printable(f"{request.output}: the picture of it"))
    return 0


def _check(request: Request) -> None:
    """What can be refused before anything is loaded."""
    check_number("--top_k", request.top_k, least=1)
    if request.detector is None and request.regions is None:
        raise InputError(
            f"nothing can look at --image={request.image}: give --detector=FILE, or --regions=STORE with an image id"
        )
    if request.detector is None and request.boxes is not None:
        raise InputError(
            f"--boxes={request.boxes} says what a detector keeps, and there is none: leave it out, or give --detector"
        )
    if request.output is not None:
        _check_output(request.output)


def _check_output(path: Path) -> None:
    if path.suffix != ".png":
        raise InputError(f"--output={path}: the picture of the answer is a PNG, name it NAME.png")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"--output={path}: there is something that cannot be replaced; give another name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--output={path}: nothing can be written into {path.parent} ({error.strerror}); give a folder that there "
            "is and that is yours"
        ) from error


def _printable(text: str) -> str:
    """The text with escapes for what a name of a file may hold and no output can: bytes that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _told(predictor: Predictor, request: Request) -> _Told:
    image, top_k = request.image, request.top_k
    if request.question is not None:
        answer = predictor.answer(image, request.question, top_k=top_k)
        return _Told(str(answer), _content(request.question, answer), _bars(answer.top), request.question)
    if request.expression is not None:
        found = predictor.ground(image, request.expression)
        best = [Word("the whole picture" if not k else f"region {k}", score) for _, score, k in found.candidates]
        told = _Told(str(found), _content(request.expression, found), _bars(best[:top_k]), request.expression)
        return told._replace(candidates=found.candidates)
    if request.text is not None:
        filled = predictor.fill(image, request.text, top_k=top_k)
        bars = [bar for words in filled.blanks for bar in (*_bars(words), Bar("", 0, ""))]
        return _Told(str(filled), _content(request.text, filled), tuple(bars[:-1]), request.text)
    return _matched(predictor, image, request.caption)


def _matched(predictor: Predictor, image: str, captions: tuple[str, ...]) -> _Told:
    scores = predictor.match(image, [*captions])
    order = np.argsort(-scores, kind="stable").tolist()
    best = [(captions[k], float(scores[k])) for k in order]
    weights = np.exp(scores[order] - scores.max())
    # Bars compare captions: a single one has nothing to be compared with.
    shares = weights / weights.sum() if len(captions) > 1 else np.zeros(1)
    bars = [Bar(text, float(share), f"{score:+.2f}") for (text, score), share in zip(best, shares, strict=True)]
    content = {"image": image, "captions": [{"text": text, "score": score} for text, score in best]}
    return _Told("\n".join(f"{score:+8.2f}  {text}" for text, score in best), content, tuple(bars), best[0][0])


def _content(text: str, result: Any) -> dict[str, Any]:
    return {"asked": text, **to_json(result)}


def _bars(words: Any) -> tuple[Bar, ...]:
    return tuple(Bar(word.text, word.score, f"{word.score:.0%}") for word in words)


def _shown(predictor: Predictor, request: Request, told: _Told, store: RegionStore | None) -> Shown:
    if store is not None and request.image in store:
        stored = store.stored(request.image)
        picture, width, height = None, stored.width, stored.height
    else:
        picture = look_at(request.image)
        height, width, _ = picture.shape
    attention = None if told.candidates else predictor.attention(request.image, told.looked_for)
    asked = request.question or request.expression or request.text
    return Shown(
        picture=picture,
        question=asked or "Which caption fits?",
        bars=told.bars,
        attention=attention,
        candidates=told.candidates,
        size=(width, height),
    )
