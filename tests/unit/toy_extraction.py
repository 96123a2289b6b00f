"""An extraction without a network: the only region of a picture is the picture, described by mean colours."""

import numpy as np
from small_detector import picture

from tfds_builders.region_features import extracted
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.detector.preparation import Prepared
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.extractor import Extracted, ReadyPicture
from vilbert_jax.extraction.run import extract_to_store
from vilbert_jax.extraction.sources import PictureSet

CONTRACT = FeatureContract(
    detector="toy", weights_hash="abc", layer="mean", colour_order="bgr", resize_rule="none", selection_rule="all",
    feature_dim=6, num_classes=3, class_names=("background", "dark", "light"),
)  # fmt: skip
PICTURES_A_PART = 4


class ToyExtractor:
    """Holds back a few pictures, as batches do."""

    contract, given_boxes = CONTRACT, ""

    def ready(self, image_id, picture):
        nothing = np.zeros(2)
        return ReadyPicture(image_id, *picture.shape[:2], Prepared(picture, nothing, nothing))

    def extract_ready(self, pictures):
        held = []
        for ready in pictures:
            held.append(ready)
            if len(held) > 2:
                yield extracted_from(held.pop(0))
        yield from map(extracted_from, held)


def extracted_from(ready):
    pixels = ready.prepared.pixels.astype(np.float32)
    means = np.concatenate([pixels.mean(axis=(0, 1)), pixels[0].mean(axis=0)])
    light = means[:3].mean() / 255
    num_boxes = 1 + ready.width % 3
    record = RegionRecord(
        ready.image_id,
        ready.width,
        ready.height,
        boxes=np.array([[0, 0, ready.width, ready.height - 0.5]] * num_boxes, np.float32),
        features=np.stack([means * (k + 1) for k in range(num_boxes)]).astype(np.float32),
        class_probs=np.array([[0.25, 0.75 * (1 - light), 0.75 * light]] * num_boxes, np.float32),
    )
    nothing = np.zeros(num_boxes)
    return Extracted(record, nothing, nothing, nothing, nothing, fell_short=ready.width == 17)


class ToySource:
    """Pictures in memory, some of them unreadable; counts what is read."""

    def __init__(self, count=21, bad=(3, 4, 20), ids=None, names=None, state=""):
        self.loads, self.bad = [], set(bad)
        ids = tuple(f"picture {7 * k % 100:02d}" for k in range(count)) if ids is None else ids
        names = tuple(f"folder/{image_id}.png" for image_id in ids) if names is None else names
        self.set = PictureSet(ids, names, states=(state,) * len(ids), load=self.load)

    def load(self, number):
        self.loads.append(number)
        if number in self.bad:
            raise InputError(f"number {number} is\tdamaged")
        return picture(8 + number, 10 + number, seed=number)

    @property
    def good(self):
        return [k for k in range(len(self.set)) if k not in self.bad]


def extract(source, output, extractor=None, **options):
    said = []
    options = {"num_readers": 2, "say": said.append} | options
    extract_to_store(extractor or ToyExtractor(), source.set, output, extracted.BUILDING, **options)
    return said
