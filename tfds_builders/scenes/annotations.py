"""The annotation sets of the scenes data: what one example of each looks like, and the examples of one picture."""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders.scenes import captions, choices, classifier, expressions, questions, regions, rendering, world
from tfds_builders.scenes.language import CONTENT_WORDS

Example = dict[str, Any]
_JPEG_QUALITY = 95
_RETRIEVAL_CAPTIONS = 5
_text = tfds.features.Text


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One kind of annotation.

    Attributes:
        name: first part of the config's name.
        description: for the config.
        features: makes the TFDS schema of an example.
        examples: image id -> the examples of that picture, each with its key, unique over the data set.
        metadata: for info.metadata.
    """

    name: str
    description: str
    features: Callable[[], dict[str, Any]]
    examples: Callable[[str], list[tuple[str, Example]]]
    metadata: dict[str, Any]


def _caption_features() -> dict[str, Any]:
    return {"image_id": _text(), "caption": _text()}


def _caption_examples(image_id: str) -> list[tuple[str, Example]]:
    scene = world.make_scene(image_id)
    count = 4 + int(world.image_generator(image_id, 4).random() < 0.5)
    return [
        (f"{image_id}-{k}", {"image_id": image_id, "caption": caption})
        for k, caption in enumerate(captions.captions(scene, count))
    ]


def _question_features() -> dict[str, Any]:
    return {
        "question_id": np.int64,
        "image_id": _text(),
        "question": _text(),
        "question_type": _text(),
        "answer_type": _text(),
        "answers": tfds.features.Sequence(_text()),
        "multiple_choice_answer": _text(),
    }


def _question_examples(image_id: str) -> list[tuple[str, Example]]:
    examples = []
    for k, asked in enumerate(questions.questions(world.make_scene(image_id))):
        question_id = world.image_number(image_id) * 1000 + k
        example = {
            "question_id": question_id,
            "image_id": image_id,
            "question": asked.text,
            "question_type": asked.kind,
            "answer_type": asked.answer_type,
            "answers": list(asked.answers),
            "multiple_choice_answer": questions.most_frequent(asked.answers),
        }
        examples.append((str(question_id), example))
    return examples


def _expression_features() -> dict[str, Any]:
    return {
        "sent_id": np.int64,
        "ref_id": np.int64,
        "image_id": _text(),
        "sentence": _text(),
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
    }


def _expression_examples(image_id: str) -> list[tuple[str, Example]]:
    scene = world.make_scene(image_id)
    examples = []
    for k, expression in enumerate(expressions.expressions(scene)):
        x1, y1, x2, y2 = scene.things[expression.thing].box
        sent_id = world.image_number(image_id) * 100 + k
        example = {
            "sent_id": sent_id,
            "ref_id": world.image_number(image_id) * 10 + expression.thing,
            "image_id": image_id,
            "sentence": expression.sentence,
            "box": np.array([x1, y1, x2 - x1, y2 - y1], np.float32),
        }
        examples.append((str(sent_id), example))
    return examples


def _retrieval_features() -> dict[str, Any]:
    return {"image_id": _text(), "captions": tfds.features.Sequence(_text())}


def _retrieval_examples(image_id: str) -> list[tuple[str, Example]]:
    described = captions.captions(world.make_scene(image_id), _RETRIEVAL_CAPTIONS)
    return [(image_id, {"image_id": image_id, "captions": described})]


def _choice_features() -> dict[str, Any]:
    return {
        "annot_id": _text(),
        "image_id": _text(),
        "question": _text(),
        "answer_choices": tfds.features.Sequence(_text()),
        "answer_label": np.int32,
        "rationale_choices": tfds.features.Sequence(_text()),
        "rationale_label": np.int32,
    }


def _choice_examples(image_id: str) -> list[tuple[str, Example]]:
    examples = []
    for k, asked in enumerate(choices.choices(world.make_scene(image_id))):
        annot_id = f"{image_id}-{k}"
        example = {
            "annot_id": annot_id,
            "image_id": image_id,
            "question": asked.question,
            "answer_choices": list(asked.answers),
            "answer_label": asked.answer,
            "rationale_choices": list(asked.reasons),
            "rationale_label": asked.reason,
        }
        examples.append((annot_id, example))
    return examples


def _picture_features() -> dict[str, Any]:
    return {
        "image_id": _text(),
        "image": tfds.features.Image(shape=(world.HEIGHT, world.WIDTH, 3), encoding_format="jpeg"),
    }


def _picture_examples(image_id: str) -> list[tuple[str, Example]]:
    file = io.BytesIO()
    Image.fromarray(rendering.render(image_id)).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    file.seek(0)
    return [(image_id, {"image_id": image_id, "image": file})]


def _object_features() -> dict[str, Any]:
    tensor = tfds.features.Tensor
    return {
        "image_id": _text(),
        "boxes": tensor(shape=(None, 4), dtype=np.float32, encoding="bytes"),
        "classes": tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
        "attributes": tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
    }


def _object_examples(image_id: str) -> list[tuple[str, Example]]:
    scene = world.make_scene(image_id)
    example = {
        "image_id": image_id,
        "boxes": regions.given_boxes(scene),
        "classes": np.array([classifier.CLASS_NAMES.index(f"{t.colour} {t.shape}") for t in scene.things], np.int32),
        "attributes": np.array([world.TEXTURES.index(thing.texture) for thing in scene.things], np.int32),
    }
    return [(image_id, example)]


CAPTIONS = Annotation(
    name="captions",
    description="4 or 5 true captions a picture, one example each.",
    features=_caption_features,
    examples=_caption_examples,
    metadata={"content_words": {kind: list(words) for kind, words in CONTENT_WORDS.items()}},
)
VQA = Annotation(
    name="vqa",
    description="Six questions a picture with ten answers each.",
    features=_question_features,
    examples=_question_examples,
    metadata={"answers": list(questions.ANSWERS)},
)
EXPRESSIONS = Annotation(
    name="expressions",
    description="One to three phrases for every object, each fitting no other object; box as x, y, width, height.",
    features=_expression_features,
    examples=_expression_examples,
    metadata={"box": "xywh pixels"},
)
RETRIEVAL = Annotation(
    name="retrieval",
    description="Five captions a picture, one example a picture.",
    features=_retrieval_features,
    examples=_retrieval_examples,
    metadata={"captions_an_image": _RETRIEVAL_CAPTIONS},
)
CHOICE = Annotation(
    name="choice",
    description="Questions with four answers, and four reasons for the right answer.",
    features=_choice_features,
    examples=_choice_examples,
    metadata={"choices": 4},
)
PICTURES = Annotation(
    name="pictures",
    description="The pictures themselves, as JPEG files.",
    features=_picture_features,
    examples=_picture_examples,
    metadata={"jpeg_quality": _JPEG_QUALITY},
)
OBJECTS = Annotation(
    name="objects",
    description="The exact box, the class and the texture of every thing of a picture, to train a detector on.",
    features=_object_features,
    examples=_object_examples,
    # Numbers of classes and attributes are places in these lists.
    metadata={
        "box": "xyxy pixels",
        "class_names": list(classifier.CLASS_NAMES),
        "attribute_names": list(world.TEXTURES),
    },
)
ANNOTATIONS = (CAPTIONS, VQA, EXPRESSIONS, RETRIEVAL, CHOICE, PICTURES, OBJECTS)
