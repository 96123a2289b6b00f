"""What a predictor reads of pictures: records, one detection for many questions, the first regions; in few shapes."""

import numpy as np
import pytest
import toy_checkpoints as toys
import toy_tasks
from test_predictor_regions import FakeExtractor, png

import vilbert_jax as vj
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.predictor import programs

PICTURES = ("kite", "lake", "moon", "tree")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store and a model."""
    root = tmp_path_factory.mktemp("pictures")
    toy_tasks.write_vocabulary(root)
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    toys.save(root, "two", ("vqa", "choice", "grounding", "tokens", "alignment"))
    return root


def record(num_boxes, image_id="mine"):
    rng = np.random.default_rng(num_boxes)
    corners = rng.uniform(0, 10, (num_boxes, 2))
    boxes = np.concatenate([corners, corners + 5], axis=1).astype(np.float32)
    features = rng.normal(size=(num_boxes, toy_tasks.FEATURE_DIM)).astype(np.float32)
    return RegionRecord(image_id, 20, 16, boxes, features, None)


def test_a_record_of_the_store_is_the_picture(root):
    store, predictor = vj.RegionStore(root / "toy_regions"), vj.Predictor(root / "two", store=root / "toy_regions")
    assert predictor.answer(store["tree"], "why ?") == predictor.answer("tree", "why ?")


def test_ten_questions_about_a_picture_detect_once(root):
    fake = FakeExtractor(contract=toy_tasks.CONTRACT, feature_dim=toy_tasks.FEATURE_DIM)
    predictor = vj.Predictor(root / "two", fake)
    picture = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    answers = [predictor.answer(picture, f"what is {word} ?") for word in toy_tasks.WORDS[:10]]
    answers += predictor.answer(png(picture), [f"what is {word} ?" for word in toy_tasks.WORDS[:4]])
    assert len(fake.shown) == 1
    assert answers[0].text == answers[10].text
    assert len({answer.score for answer in answers[:10]}) > 1


def test_a_hundred_questions_are_a_handful_of_programs(monkeypatch, root):
    shapes = set()

    def program(config, head):
        def run(params, batch):
            shapes.add(tuple((name, batch[name].shape, str(batch[name].dtype)) for name in sorted(batch)))
            return np.zeros((len(batch["token_ids"]), config.num_vqa_answers), np.float32)

        return run

    monkeypatch.setattr(programs, "_head_program", program)
    predictor, rng = vj.Predictor(root / "two", store=root / "toy_regions"), np.random.default_rng(0)
    images = [*PICTURES, *map(record, range(1, 60))]
    for k in range(100):
        image = images[k % len(images)]
        assert predictor.answer(image, "a " * int(rng.integers(1, 30))).text == "zero"
    assert len(shapes) == 2 * 3  # up to 16 and 32 tokens; up to 16, 36, 64 regions
    for count in range(1, 80):
        assert len(predictor.answer("kite", ["why ?"] * count)) == count
    assert len(shapes) == 6 + 5  # batches of 2, 4, 8, 16, 32


def test_of_too_many_regions_the_first_are_read(root):
    many = record(7)
    few = many._replace(boxes=many.boxes[:3], features=many.features[:3])  # with another mean
    predictor = vj.Predictor(root / "two", store=root / "toy_regions", max_regions=3)
    assert len(predictor.ground(many, "a kite").candidates) == 4
    # The whole picture's feature is the mean over all of them, as in training.
    assert predictor.ground(few, "a kite").candidates != predictor.ground(many, "a kite").candidates
