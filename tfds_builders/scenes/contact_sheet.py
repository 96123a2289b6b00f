"""Draws the contact sheet of the README: pictures with the boxes the detector reports, and what captions say.

python -m tfds_builders.scenes.contact_sheet
"""

import pathlib
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfds_builders.scenes import captions, classifier, detections, regions, rendering, world
from vilbert_jax.data.region_codec import RegionRecord

FILE = pathlib.Path(__file__).parent / "contact_sheet.png"
SHOWN = tuple(world.make_image_id("small", "test", n) for n in (0, 3, 7, 16, 21, 23, 28, 31, 37, 45, 60, 65))
_COLUMNS, _SCALE = 3, 2
_MARGIN, _CAPTION_HEIGHT = 26, 84  # pixels of the sheet
_PAPER, _INK, _FAINT = (250, 249, 246), (45, 45, 50), (255, 255, 255)


def draw(image_ids: tuple[str, ...] = SHOWN) -> Image.Image:
    """The sheet, RGB."""
    width, height = world.WIDTH * _SCALE, world.HEIGHT * _SCALE
    rows = -(-len(image_ids) // _COLUMNS)
    sheet = Image.new(
        "RGB",
        (_COLUMNS * (width + _MARGIN) + _MARGIN, rows * (height + _CAPTION_HEIGHT) + _MARGIN),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=21)
    for place, image_id in enumerate(image_ids):
        x = _MARGIN + place % _COLUMNS * (width + _MARGIN)
        y = _MARGIN + place // _COLUMNS * (height + _CAPTION_HEIGHT)
        sheet.paste(_picture(image_id), (x, y))
        said = captions.captions(world.make_scene(image_id), 5)
        caption = max((c for c in said if captions.count_words(c) <= 17), key=len)
        pen.multiline_text((x + 2, y + height + 10), textwrap.fill(caption, 50), font=font, fill=_INK, spacing=5)
    return sheet


def _picture(image_id: str) -> Image.Image:
    """One picture with its boxes; the most certain box of every class carries the class and its probability."""
    picture = Image.fromarray(rendering.render(image_id, _SCALE))
    layer = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(layer)
    font = ImageFont.load_default(size=15)
    record = regions.region_record(image_id, regions.fitted_classifier())
    for k, named in _labels(record).items():
        box = [float(v) * _SCALE for v in record.boxes[k]]
        pen.rectangle(box, outline=(*_FAINT, 235 if named else 90), width=2 if named else 1)
        if named:
            left, upper = box[0], max(box[1] - 19, 0)
            left = min(left, picture.width - pen.textlength(named, font=font) - 8)
            pen.rectangle([left, upper, left + pen.textlength(named, font=font) + 8, upper + 19], fill=(*_FAINT, 225))
            pen.text((left + 4, upper + 1), named, font=font, fill=(*_INK, 255))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _labels(record: RegionRecord) -> dict[int, str]:
    """Box -> what to write on it: class and probability of the most certain box of every heap, "" for the others."""
    assert record.class_probs is not None
    top, sure = record.class_probs.argmax(1), record.class_probs.max(1)
    alike = detections.iou(record.boxes, record.boxes)
    shown: list[int] = []
    for k in np.argsort(-sure):
        if top[k] and sure[k] > 0.35 and all(alike[k, other] < 0.2 for other in shown):
            shown.append(int(k))
    others = [k for k in range(len(top)) if k not in shown]
    return dict.fromkeys(others, "") | {k: f"{classifier.CLASS_NAMES[top[k]]} {sure[k]:.2f}" for k in shown}


def main() -> None:
    """Writes contact_sheet.png."""
    half = np.asarray(draw()) & 0xFE  # half the levels compress far better
    Image.fromarray(half).save(FILE, optimize=True)
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
