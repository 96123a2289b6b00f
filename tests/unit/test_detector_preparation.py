"""Sizes, canvases and resizing against the references' numbers, plain loops."""

import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import odd_pictures
import pytest
import tiny_detector
from PIL import Image

from vilbert_jax.data.picture_files import read_picture
from vilbert_jax.detector.config import CAFFE, DETECTRON2
from vilbert_jax.detector.pictures import PIXEL_MEAN
from vilbert_jax.detector.preparation import canvas_of, network_size, prepare, stack
from vilbert_jax.errors import InputError

SMALL = dataclasses.replace(DETECTRON2, short_side=160, long_side=208)
SMALL_CAFFE = dataclasses.replace(CAFFE, short_side=160, long_side=208)
MEAN = np.array(PIXEL_MEAN, np.float32)
both = pytest.mark.parametrize("flavour", [SMALL, SMALL_CAFFE], ids=lambda flavour: flavour.name)


def random_picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def inside(prepared):
    """The picture in RGB, without its canvas."""
    height, width = prepared.size
    return (prepared.pixels[:height, :width] + MEAN)[..., ::-1]


@pytest.mark.parametrize("i", [0, 1])
def test_the_pictures_of_the_reference(i):
    """Its own input of the network, from its own pictures."""
    bgr = tiny_detector.arrays("tiny_io")[f"image{i}_bgr"]
    prepared = prepare(np.ascontiguousarray(bgr[..., ::-1]), SMALL)
    height, width = tiny_detector.size_of(i)
    assert prepared.size.tolist() == [height, width]
    np.testing.assert_array_equal(prepared.scale, tiny_detector.golden(i, "scales_yx")[0])
    expected = tiny_detector.arrays("tiny_io")["batch/x"][i].transpose(1, 2, 0)
    np.testing.assert_allclose(prepared.pixels[:height, :width], expected[:height, :width], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("raw", "flavour", "size"),
    [
        ((100, 130), SMALL, (160, 208)),
        ((150, 96), SMALL, (208, 133)),
        ((480, 640), CAFFE, (600, 800)),
        ((480, 640), DETECTRON2, (800, 1067)),
        ((1080, 1920), CAFFE, (562, 1000)),  # 562.5, to even
        ((1080, 1920), DETECTRON2, (750, 1333)),  # 749.8
        ((1, 10_000), CAFFE, (1, 1000)),
        ((10_000, 1), DETECTRON2, (1333, 1)),
        ((1, 1), CAFFE, (600, 600)),
    ],
)
def test_sizes(raw, flavour, size):
    assert network_size(*raw, flavour) == size


def test_the_limit_is_asked_of_rounded_or_of_exact_sides():
    """10.4 pixels where 10 are the limit: they round to 10, or else exceed it and the factor becomes 10 / 52."""
    tight_caffe, tight_port = (dataclasses.replace(f, short_side=8, long_side=10) for f in (CAFFE, DETECTRON2))
    assert network_size(40, 52, tight_caffe) == network_size(40, 52, tight_port) == (8, 10)
    assert prepare(random_picture(40, 52), tight_caffe).scale.tolist() == [5, 5]
    assert prepare(random_picture(40, 52), tight_port).scale.tolist() == pytest.approx([5, 5.2])


def test_halves():
    """5 * 1.5 = 7.5 and 3 * 1.5 = 4.5: to even for OpenCV, up for the port."""
    limits = dict(short_side=3, long_side=99)
    caffe, port = (dataclasses.replace(f, **limits) for f in (CAFFE, DETECTRON2))
    assert (network_size(2, 5, caffe), network_size(2, 5, port)) == ((3, 8), (3, 8))
    assert (network_size(2, 3, caffe), network_size(2, 3, port)) == ((3, 4), (3, 5))


@pytest.mark.parametrize("flavour", [CAFFE, DETECTRON2], ids=lambda flavour: flavour.name)
def test_canvases_are_few_and_fit(flavour):
    rng = np.random.default_rng(0)
    found = {}
    for height, width in rng.integers(1, 3000, (500, 2)).tolist():
        size = network_size(height, width, flavour)
        canvas = canvas_of(size, flavour)
        assert canvas[0] >= size[0]
        assert canvas[1] >= size[1]
        assert [side % 16 for side in canvas] == [0, 0]
        found.setdefault(canvas, size)
    assert len(found) <= 7
    for canvas in found:
        assert canvas_of((canvas[0] - 15, canvas[1] - 15), flavour) == canvas


def test_common_pictures_waste_little_canvas():
    assert canvas_of(network_size(480, 640, CAFFE), CAFFE) == (608, 800)
    assert canvas_of(network_size(640, 480, CAFFE), CAFFE) == (800, 608)
    assert canvas_of(network_size(332, 500, CAFFE), CAFFE) == (608, 912)
    assert canvas_of(network_size(1080, 1920, CAFFE), CAFFE) == (608, 1008)
    assert canvas_of(network_size(500, 333, DETECTRON2), DETECTRON2) == (1216, 800)


def test_a_size_beyond_the_limits_has_no_canvas():
    with pytest.raises(InputError, match="900 x 900 pixels exceed 600/1000.*take the size from network_size"):
        canvas_of((900, 900), CAFFE)


def bilinear(picture, size, steps):
    """One place at a time, in double precision; half-pixel centres, the border replicated."""
    found = np.zeros((*size, 3))
    for y in range(size[0]):
        for x in range(size[1]):
            at = (y + 0.5) * steps[0] - 0.5, (x + 0.5) * steps[1] - 0.5
            at = [min(max(a, 0), n - 1) for a, n in zip(at, picture.shape[:2], strict=True)]
            for row in {int(at[0]), min(int(at[0]) + 1, picture.shape[0] - 1)}:
                for column in {int(at[1]), min(int(at[1]) + 1, picture.shape[1] - 1)}:
                    weight = max(1 - abs(at[0] - row), 0) * max(1 - abs(at[1] - column), 0)
                    found[y, x] += weight * picture[row, column]
    return found


@both
@pytest.mark.parametrize("raw", [(7, 5), (40, 61), (3, 90)])
def test_resizing_is_bilinear(flavour, raw):
    flavour = dataclasses.replace(flavour, short_side=20, long_side=32)
    picture, prepared = random_picture(*raw), prepare(random_picture(*raw), flavour)
    factor = max(max(raw) / 32, min(raw) / 20)
    steps = (factor, factor) if flavour.resize == "opencv" else np.array(raw) / prepared.size
    np.testing.assert_allclose(prepared.scale, steps, rtol=1e-6)
    np.testing.assert_allclose(inside(prepared), bilinear(picture, prepared.size, steps), rtol=0, atol=2e-3)


def test_steps_differ_between_the_flavours():
    """7 pixels become 9: OpenCV goes on by 3/4, whose 9 steps end before the border; the port by 7/9."""
    ramp = np.repeat(np.arange(7, dtype=np.uint8)[None, :, None] * 10, 3, axis=2).repeat(6, axis=0)
    limits = dict(short_side=8, long_side=99)
    caffe = inside(prepare(ramp, dataclasses.replace(CAFFE, **limits)))[0, :, 0]
    port = inside(prepare(ramp, dataclasses.replace(DETECTRON2, **limits)))[0, :, 0]
    np.testing.assert_allclose(caffe[:3], [0, 6.25, 13.75], atol=1e-4)
    np.testing.assert_allclose(port[:3], [0, 10 * (1.5 * 7 / 9 - 0.5), 10 * (2.5 * 7 / 9 - 0.5)], atol=1e-4)
    assert len(caffe) == len(port) == 9


def test_nothing_is_smoothed_when_a_picture_shrinks():
    """Every place comes of its two neighbours a side alone, unlike Pillow's resizing."""
    picture = random_picture(60, 60)
    flavour = dataclasses.replace(CAFFE, short_side=6, long_side=9)  # centres lie at 4.5, 14.5, ...
    expected = picture.astype(np.float32).reshape(6, 10, 6, 10, 3)[:, 4:6, :, 4:6].mean(axis=(1, 3))
    np.testing.assert_allclose(inside(prepare(picture, flavour)), expected, rtol=0, atol=1e-3)


@both
def test_a_picture_of_the_right_size_is_not_resized(flavour):
    picture = random_picture(160, 190)
    prepared = prepare(picture, flavour)
    np.testing.assert_allclose(inside(prepared), picture, rtol=0, atol=1e-4)
    assert prepared.scale.tolist() == [1, 1]
    assert prepared.pixels.shape == (160, 208, 3)
    assert not prepared.pixels[:, 190:].any()


@both
@pytest.mark.parametrize("height", [3, 64, 65, 200])
def test_rows_at_once_do_not_matter(flavour, height, monkeypatch):
    picture = random_picture(height, 90)
    whole = prepare(picture, flavour)
    monkeypatch.setattr("vilbert_jax.detector.preparation._ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(prepare(picture, flavour).pixels, whole.pixels)


@pytest.mark.parametrize("as_source", ["path", "bytes", "pil", "array"])
@both
def test_the_network_reads_blue_green_red(flavour, as_source, tmp_path):
    """From a red file to the network's input: 255 is in its last channel, and the mean is that of each channel."""
    red = Image.new("RGB", (13, 11), (255, 0, 0))
    red.save(tmp_path / "red.png")
    sources = {
        "path": tmp_path / "red.png",
        "bytes": odd_pictures.encoded(red),
        "pil": red,
        "array": np.asarray(red),
    }
    prepared = prepare(read_picture(sources[as_source]), flavour)
    height, width = prepared.size
    expected = np.array([-102.9801, -115.9465, 255 - 122.7717], np.float32)
    np.testing.assert_allclose(
        prepared.pixels[:height, :width], np.broadcast_to(expected, (height, width, 3)), rtol=1e-5
    )


@pytest.mark.parametrize("name", odd_pictures.usable())
@both
def test_odd_pictures_can_be_prepared(flavour, name):
    prepared = prepare(read_picture(odd_pictures.usable()[name]), flavour)
    assert prepared.size.min() >= 1
    assert prepared.pixels.dtype == np.float32
    assert np.isfinite(prepared.pixels).all()
    assert (prepared.scale > 0).all()


def test_pictures_are_prepared_without_jax():
    """By processes that read pictures: it would cost each of them seconds and memory."""
    code = "import sys, vilbert_jax.detector.preparation; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_copy_of_a_large_picture_is_made():
    picture = np.zeros((3000, 4000, 3), np.uint8)
    tracemalloc.start()
    prepare(picture, SMALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < picture.nbytes / 4


def test_pictures_of_one_canvas_are_a_batch():
    prepared = [prepare(random_picture(160, width), SMALL) for width in (170, 208)]
    batch = stack(prepared)
    assert batch.pixels.shape == (2, 160, 208, 3)
    assert batch.sizes.tolist() == [[160, 170], [160, 208]]
    assert batch.scales.tolist() == [[1, 1], [1, 1]]
    assert batch.sizes.dtype == np.int32
    with pytest.raises(InputError, match="a batch has pictures of one canvas"):
        stack([*prepared, prepare(random_picture(208, 160), SMALL)])
    with pytest.raises(InputError, match="0 pictures"):
        stack([])


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 0, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(InputError, match="read it with vilbert_jax.data.picture_files.read_picture"):
        prepare(picture, SMALL)
