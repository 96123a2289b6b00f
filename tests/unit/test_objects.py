"""Annotated pictures as training reads them: joined by image id, padded, refused."""

import pickle

import numpy as np
import pytest

from vilbert_jax.data.objects import ObjectsConfig, ObjectsSource
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.errors import InputError

RNG = np.random.default_rng(0)


def picture(name, shape=(4, 6, 3)):
    return {"image_id": name.encode(), "image": np.full(shape, len(name), np.uint8)}


def objects(name, *classes):
    count = len(classes)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return {"image_id": name.encode(), "boxes": boxes, "classes": np.array(classes, np.int32),
            "attributes": np.arange(count, dtype=np.int32)}  # fmt: skip


PICTURES = [picture("a"), picture("bb"), picture("ccc")]
OBJECTS = [objects("ccc", 3, 1), objects("a", 2), objects("bb")]


def test_an_example_is_a_picture_and_its_things_padded():
    source = ObjectsSource(PICTURES, OBJECTS, max_things=3)
    assert (len(source), source.size) == (3, (4, 6))
    found = source.example(0, RNG)
    assert (found["pixels"] == 3).all()
    np.testing.assert_array_equal(found["boxes"], [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]])
    assert found["thing_mask"].tolist() == [True, True, False]
    assert found["classes"].tolist() == [2, 0, 0]  # without the background
    assert found["attributes"].tolist() == [0, 1, 0]
    assert [source.picture(k)[0, 0, 0] for k in range(3)] == [3, 1, 2]
    assert source.annotated(1).classes.tolist() == [2]
    assert source.annotated(1).image_id == "a"
    assert not source.example(2, RNG)["thing_mask"].any()


def test_batches_hold_rows_of_it():
    source = pickle.loads(pickle.dumps(ObjectsSource(PICTURES, OBJECTS, max_things=2)))
    batch = Dataset(source, batch_size=2, seed=0, shuffle=False)[1]
    assert batch["pixels"].shape == (2, 4, 6, 3)
    assert batch["pixels"].dtype == np.uint8
    assert batch["boxes"].dtype == np.float32
    assert batch["example_mask"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("pictures", "annotations", "message"),
    [
        (PICTURES[:2], OBJECTS, "1 of 3 annotated pictures are not among the pictures, such as 'ccc'"),
        (PICTURES, [], "there are no annotated pictures"),
        ([], OBJECTS, "there are no annotated pictures"),
    ],
)
def test_pictures_that_are_missing_are_refused(pictures, annotations, message):
    with pytest.raises(InputError, match=message):
        ObjectsSource(pictures, annotations, max_things=3)


def test_more_things_than_there_is_room_for_are_refused():
    with pytest.raises(InputError, match="'ccc' has 2 things; set --config.max_things"):
        ObjectsSource(PICTURES, OBJECTS, max_things=1).example(0, RNG)


def test_pictures_of_several_sizes_are_refused():
    source = ObjectsSource([*PICTURES[:2], picture("ccc", (5, 6, 3))], OBJECTS[1:] + OBJECTS[:1], max_things=3)
    with pytest.raises(InputError, match=r"picture 'ccc' is \(5, 6, 3\), others are \[4, 6, 3\]"):
        source.example(2, RNG)


def test_a_missing_data_set_says_how_to_build_it(tmp_path):
    config = ObjectsConfig(pictures="own/pictures", objects="scenes/objects_small", data_dir=str(tmp_path),
                           max_things=5, batch_size=2)  # fmt: skip
    assert config.embedded_names() == ["scenes/objects_small"]
    with pytest.raises(InputError, match=r"no data set 'own/pictures'[^$]*build.py own --config=pictures"):
        config.open("train")
