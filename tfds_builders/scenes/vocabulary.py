"""The word-piece vocabulary of the scenes data set: every word its sentences use is one piece.

Any other English text still has pieces (letters), so nothing becomes [UNK]. The file in this folder is written by

    python -m tfds_builders.scenes.vocabulary
"""

import itertools
import pathlib
import re
import string
from collections.abc import Iterable, Iterator

from tfds_builders.scenes import captions, choices, expressions, language, questions, world

FILE = pathlib.Path(__file__).parent / "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SCENES_READ = 4000


def sentences(image_id: str) -> Iterator[str]:
    """Everything that any config says about one picture."""
    scene = world.make_scene(image_id)
    yield from captions.captions(scene, 5)
    for asked in questions.questions(scene):
        yield from (asked.text, *asked.answers)
    yield from (expression.sentence for expression in expressions.expressions(scene))
    for asked in choices.choices(scene):
        yield from (asked.question, *asked.answers, *asked.reasons)


def pieces(texts: Iterable[str]) -> list[str]:
    """The vocabulary for these texts, in the order of its ids."""
    known = [*itertools.chain(*language.CONTENT_WORDS.values()), *language.NUMBERS, *questions.ANSWERS]
    words = {word for text in (*texts, *known) for word in re.findall(r"[a-z]+", text)}
    letters, digits = string.ascii_lowercase, string.digits
    tails = [f"##{character}" for character in letters + digits]
    return [*SPECIAL, *sorted(word for word in words if len(word) > 1), *digits, *letters, *tails, *string.punctuation]


def main() -> None:
    """Writes vocab.txt."""
    ids = (world.make_image_id("full", "train", number) for number in range(_SCENES_READ))
    found = pieces(itertools.chain.from_iterable(sentences(image_id) for image_id in ids))
    FILE.write_text("\n".join(found) + "\n")
    print(f"{FILE}: {len(found)} pieces")


if __name__ == "__main__":
    main()
