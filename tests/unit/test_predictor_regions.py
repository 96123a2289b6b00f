"""Where a predictor's regions come from: records, a store, or a detector, which sees every picture once."""

import dataclasses
import io
import logging
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord, StoredRegions
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.region_reader import RegionReader
from vilbert_jax.predictor.region_sources import RegionSources

F = 3
CONTRACT = FeatureContract(
    detector="fake", weights_hash="1", layer="mean", colour_order="bgr", resize_rule="none", selection_rule="all",
    feature_dim=F,
)  # fmt: skip


@dataclasses.dataclass
class FakeExtractor:
    """Two regions a picture, whose features are its mean colour; remembers what it was shown."""

    contract: FeatureContract = CONTRACT
    feature_dim: int = F
    fell_short: bool = False
    shown: list = dataclasses.field(default_factory=list)

    def extract(self, pictures):
        for image_id, picture in [*pictures]:  # reads ahead
            self.shown.append(picture)
            height, width = picture.shape[:2]
            boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height]], np.float32)
            features = np.resize(picture.mean((0, 1)), (2, self.feature_dim)).astype(np.float32)
            record = RegionRecord(image_id, width, height, boxes, features, np.full((2, 4), 0.25, np.float32))
            yield types.SimpleNamespace(record=record, fell_short=self.fell_short)


class FakeStore(dict):
    path = "stores/fake"
    contract = CONTRACT

    def stored(self, image_id):
        return self[image_id]


def picture(number, height=8, width=12):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def reader(extractor=None, store=None, cache_size=8):
    return RegionReader(RegionSources(store, extractor), feature_dim=F, cache_size=cache_size)


def test_every_way_to_give_a_picture_is_the_same_picture_and_is_seen_once(tmp_path):
    array = picture(0)
    (tmp_path / "a.png").write_bytes(png(array))
    ways = [array, png(array), Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")]
    fake = FakeExtractor()
    regions = reader(fake)
    found = [*regions.read(ways[:2]), *[regions.read([way])[0] for way in ways]]
    assert len(fake.shown) == 1
    for one in found:
        assert (one.width, one.height) == (12, 8)
        np.testing.assert_allclose(one.features, np.tile(array.mean((0, 1)), (2, 1)), rtol=1e-6)


def test_red_is_red_when_the_detector_sees_it():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    for way in (red, png(red), Image.fromarray(red)):
        fake = FakeExtractor()
        reader(fake).read([way])
        assert fake.shown[0][0, 0].tolist() == [255, 0, 0]


def test_ten_questions_about_one_picture_detect_once_and_another_pixel_is_another_picture():
    fake, changed = FakeExtractor(), picture(0)
    changed[0, 0, 0] ^= 1
    regions = reader(fake)
    for _ in range(10):
        regions.read([picture(0)])
    assert len(fake.shown) == 1
    regions.read([changed])
    assert len(fake.shown) == 2
    regions.read([picture(0, 12, 8)])  # the same bytes in another shape
    assert len(fake.shown) == 3


def test_a_file_that_changed_is_looked_at_again(tmp_path):
    path, fake = tmp_path / "a.png", FakeExtractor()
    regions = reader(fake)
    for number in (0, 1):
        path.write_bytes(png(picture(number)))
        regions.read([path])
    assert len(fake.shown) == 2


def test_the_longest_unused_picture_is_forgotten_first():
    fake = FakeExtractor()
    regions = reader(fake, cache_size=2)
    for number in (0, 1, 0, 2):  # 1 is forgotten
        regions.read([picture(number)])
    assert len(fake.shown) == 3
    regions.read([picture(0)])
    assert len(fake.shown) == 3
    regions.read([picture(1)])
    assert len(fake.shown) == 4


def test_one_call_may_have_more_pictures_than_are_remembered():
    fake = FakeExtractor()
    order = [3, 0, 1, 0, 3, 2]
    for size in (0, 1, 2):
        regions = reader(fake, cache_size=size)
        found = regions.read([picture(number) for number in order])
        means = [picture(number).mean((0, 1)) for number in order]
        np.testing.assert_allclose([one.features[0] for one in found], means, rtol=1e-6)
    assert len(fake.shown) == 3 * 4


def test_mixed_sources_keep_their_order():
    record = RegionRecord("mine", 20, 10, np.array([[0, 0, 5, 5]], np.float32), np.full((1, F), 7.0, np.float32), None)
    stored = StoredRegions("a", 4, 4, np.zeros((1, 4), np.float32), np.ones((1, F), np.int8), np.ones(1), None, None)
    found = reader(FakeExtractor(), FakeStore(a=stored)).read([picture(0), "a", record, picture(1), record])
    assert [one.width for one in found] == [12, 4, 20, 12, 20]
    assert found[1] is stored
    np.testing.assert_array_equal(found[2].features * found[2].scales[:, None], record.features)


def test_a_name_that_the_store_lacks_is_a_file(tmp_path):
    (tmp_path / "b.png").write_bytes(png(picture(0)))
    fake = FakeExtractor()
    reader(fake, FakeStore()).read([str(tmp_path / "b.png")])
    assert len(fake.shown) == 1


def test_without_a_detector_pictures_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match="given as ndarray is a picture, and there is no detector.*detector="):
        reader().read([picture(0)])
    with pytest.raises(InputError, match="'gone' is no image of the region store stores/fake.*detector="):
        reader(store=FakeStore()).read(["gone"])


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match="text.jpg"):
        reader(FakeExtractor()).read([picture(0), tmp_path / "text.jpg"])


def test_a_picture_that_cannot_be_read_does_not_cost_those_before_it(tmp_path):
    """Though the extractor reads ahead of what it gives back."""
    (tmp_path / "text.jpg").write_text("no picture")
    fake = FakeExtractor()
    regions = reader(fake)
    with pytest.raises(InputError, match="text.jpg"):
        regions.read([picture(0), picture(1), tmp_path / "text.jpg", picture(2)])
    assert len(fake.shown) == 2
    found = regions.read([picture(1), picture(0)])
    assert len(fake.shown) == 2
    np.testing.assert_allclose(found[0].features[0], picture(1).mean((0, 1)), rtol=1e-6)


def test_what_was_found_is_kept_whatever_ends_the_detection():
    class Stopped(FakeExtractor):
        def extract(self, pictures):
            for number, found in enumerate(super().extract(pictures)):
                if number == 3:
                    raise KeyboardInterrupt
                yield found

    stopped = Stopped()
    regions = reader(stopped, cache_size=2)
    with pytest.raises(KeyboardInterrupt):
        regions.read([picture(number) for number in range(5)])
    stopped.shown.clear()
    regions.read([picture(1), picture(2)])
    assert not stopped.shown
    regions.read([picture(0)])  # one more than are remembered
    assert len(stopped.shown) == 1


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(picture(0)))
    for way in ("~/a.png", pathlib.Path("~/a.png")):
        fake = FakeExtractor()
        reader(fake).read([way])
        np.testing.assert_array_equal(fake.shown[0], picture(0))
    with pytest.raises(InputError, match="gone.png: cannot be read"):
        reader(FakeExtractor()).read(["~/gone.png"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features", np.zeros((1, F + 1), np.float32), r"features has shape \(1, 4\); the contract asks for \(1, 3\)"),
        ("features", np.full((1, F), np.nan, np.float32), "NaN"),
        ("boxes", np.array([[0, 0, 50, 5]], np.float32), "in a picture of 20 x 10"),
        ("boxes", np.zeros((0, 4), np.float32), "no boxes"),
    ],
)
def test_given_regions_are_checked(field, value, message):
    record = RegionRecord("mine", 20, 10, np.array([[0, 0, 5, 5]], np.float32), np.zeros((1, F), np.float32), None)
    with pytest.raises(InputError, match=message):
        reader().read([record._replace(**{field: value})])


def test_class_probabilities_of_given_regions_do_not_matter():
    boxes, features = np.array([[0, 0, 5, 5]], np.float32), np.zeros((1, F), np.float32)
    record = RegionRecord("mine", 20, 10, boxes, features, np.full((1, 9), 3.0, np.float32))
    assert reader().read([record])[0].class_probs is None


def test_it_is_said_when_the_detector_was_sure_of_nothing(tmp_path, caplog):
    path = tmp_path / "fog.png"
    path.write_bytes(png(picture(0)))
    with caplog.at_level(logging.WARNING):
        reader(FakeExtractor(fell_short=True)).read([path])
    (message,) = caplog.messages
    assert "fog.png" in message
    assert "best 2 regions" in message
