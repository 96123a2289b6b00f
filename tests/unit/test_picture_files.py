"""Pictures of every odd kind as upright RGB, and files that are none."""

import io
import pathlib
import threading
import tracemalloc

import numpy as np
import odd_pictures
import pytest
from odd_pictures import HEIGHT, WIDTH, colours, encoded, rotated
from PIL import EpsImagePlugin, Image, ImageOps

from vilbert_jax.data.picture_files import FORMATS, MAX_PIXELS, read_picture
from vilbert_jax.errors import InputError


@pytest.mark.parametrize("name", odd_pictures.usable())
def test_a_path_bytes_and_a_pil_image_give_the_same(name, tmp_path):
    data = odd_pictures.usable()[name]
    (tmp_path / name).write_bytes(data)
    picture = read_picture(data)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(read_picture(tmp_path / name), picture)
    np.testing.assert_array_equal(read_picture(str(tmp_path / name)), picture)
    np.testing.assert_array_equal(read_picture(Image.open(io.BytesIO(data))), picture)
    np.testing.assert_array_equal(read_picture(picture), picture)


def test_channels_are_red_green_blue():
    """Of a red picture the first channel is full, whatever it came as."""
    red = Image.new("RGB", (4, 3), (255, 0, 0))
    expected = np.broadcast_to(np.array([255, 0, 0], np.uint8), (3, 4, 3))
    for source in (red, np.asarray(red), encoded(red), encoded(red, "BMP"), encoded(red, "WEBP", lossless=True)):
        np.testing.assert_array_equal(read_picture(source), expected)
    for source in (encoded(red, "JPEG", quality=100), encoded(red.convert("CMYK"), "JPEG", quality=100)):
        np.testing.assert_allclose(read_picture(source).astype(int), expected, atol=2)


@pytest.mark.parametrize("name", ["plain.png", "alpha.png", "palette.png", "animated.gif", "wrong_ending.jpg"])
def test_what_loses_nothing_is_exact(name):
    """Alpha is dropped, also that of a palette; the first frame counts."""
    np.testing.assert_array_equal(read_picture(odd_pictures.usable()[name]), colours())


@pytest.mark.parametrize("name", ["lossy.jpg", "cmyk.jpg"])
def test_what_loses_something_is_close(name):
    found = read_picture(odd_pictures.usable()[name])
    with Image.open(io.BytesIO(odd_pictures.usable()[name])) as image:
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_grey_is_repeated():
    found = read_picture(odd_pictures.usable()["grey.png"])
    np.testing.assert_array_equal(found, np.repeat(colours()[..., :1], 3, axis=2))
    np.testing.assert_array_equal(read_picture(colours()[..., 0]), found)
    np.testing.assert_array_equal(read_picture(colours()[..., :1]), found)


def test_bilevel_pictures_are_black_and_white():
    found = read_picture(odd_pictures.usable()["black_and_white.png"])
    assert found[0].tolist() == [[255] * 3] * WIDTH
    assert found[-1].tolist() == [[0] * 3] * WIDTH


def test_16_bits_are_scaled_and_not_clipped():
    grey, data = odd_pictures.sixteen_bits()
    expected = np.rint(grey / 257).astype(np.uint8)
    assert expected[0, :4].tolist() == [0, 0, 1, 255]
    for source in (data, grey, grey[..., None], encoded(Image.fromarray(grey), "TIFF")):
        np.testing.assert_array_equal(read_picture(source), np.repeat(expected[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_picture(np.stack([grey] * 4, axis=2))[..., 0], expected)


def test_pil_images_of_32_bits_are_taken_as_16():
    grey, _ = odd_pictures.sixteen_bits()
    np.testing.assert_array_equal(read_picture(Image.fromarray(grey.astype(np.int32))), read_picture(grey))
    with pytest.raises(InputError, match="whole numbers from 0 to 65536 as pixels; expected at most 16 bits"):
        read_picture(Image.fromarray(np.array([[0, 65536]], np.int32)))


@pytest.mark.parametrize("rows_at_once", [1, 4, HEIGHT])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation, rows_at_once, monkeypatch):
    monkeypatch.setattr("vilbert_jax.data.picture_files._STRIP_PIXELS", rows_at_once * WIDTH)
    data = rotated(orientation)
    found = read_picture(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(image)))
    assert found.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    np.testing.assert_array_equal(read_picture(rotated(orientation)), read_picture(rotated(1)))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_picture_is_in_memory_once_beside_pillows_own(orientation, monkeypatch):
    monkeypatch.setattr("vilbert_jax.data.picture_files._STRIP_PIXELS", 1 << 13)
    data = rotated(orientation, colours(512, 640))
    tracemalloc.start()
    try:
        size = read_picture(data).nbytes
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_a_picture_held_on_its_side_by_hand():
    """6: the first row is the right-hand column."""
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[0] = 255
    found = read_picture(rotated(6, stored))
    assert found.shape == (16, 8, 3)
    assert found[:, -1].min() > 200
    assert found[:, 0].max() < 50


def test_damaged_exif_is_no_reason_to_do_without_a_picture():
    data = encoded(colours(), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff")
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(read_picture(data), np.asarray(image))


@pytest.mark.parametrize("name", odd_pictures.unusable())
def test_what_cannot_be_used_is_named(name, tmp_path):
    data, reason = odd_pictures.unusable()[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: .*{reason}"):
        read_picture(tmp_path / name)
    with pytest.raises(InputError, match=f"the picture of {len(data)} bytes: .*{reason}"):
        read_picture(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's; as an error it would be what is damaged
@pytest.mark.parametrize("file_format", FORMATS)
def test_what_begins_as_a_picture_is_called_damaged_and_no_other_kind(file_format):
    data = encoded(colours(), file_format)
    assert read_picture(data).shape == colours().shape
    for length in range(12, 24):
        with pytest.raises(InputError, match="is damaged or cut off"):
            read_picture(data[:length])


def test_no_program_is_started_for_a_file_that_asks_for_one(monkeypatch, tmp_path):
    """Pillow would hand PostScript to Ghostscript."""

    def started(*args, **kwargs):
        raise RuntimeError("it was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    data, _ = odd_pictures.unusable()["postscript.jpg"]
    (tmp_path / "picture.jpg").write_bytes(data)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(RuntimeError, match="it was started"):
        image.load()
    for source in (data, tmp_path / "picture.jpg"):
        with pytest.raises(InputError, match="is no picture of a kind that is read: AVIF, BMP"):
            read_picture(source)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(InputError, match="is an opened EPS file.*convert"):
        read_picture(image)


def test_pil_images_of_other_formats_are_taken_once_they_are_converted():
    data, _ = odd_pictures.unusable()["icon.png"]
    with Image.open(io.BytesIO(data)) as image:
        with pytest.raises(InputError, match="is an opened ICO file"):
            read_picture(image)
        np.testing.assert_array_equal(read_picture(image.convert("RGB")), colours())
    two = encoded(colours(), "MPO", save_all=True, append_images=[Image.fromarray(colours())])
    with Image.open(io.BytesIO(two)) as image:
        assert image.format == "MPO"
        np.testing.assert_array_equal(read_picture(image), read_picture(two))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="none.jpg: cannot be read .No such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is no file"):
        read_picture(tmp_path)
    with pytest.raises(InputError, match=r"a\\x00b.jpg': is no name that a file can have .embedded null byte"):
        read_picture(tmp_path / "a\0b.jpg")
    with pytest.raises(InputError, match="given as int: give a path, bytes, a PIL image or a numpy array"):
        read_picture(7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"is float32; expected uint8.*take \(255 \* array\)"),
        (np.zeros((4, 4, 3), bool), "is bool"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\); expected \[H, W\]"),
        (np.zeros((3, 4, 8), np.uint8), r"shape \(3, 4, 8\); .*channels last"),
        (np.zeros((0, 4, 3), np.uint8), "is 4 x 0 pixels; a picture needs at least one"),
        (np.zeros(4, np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(InputError, match=message):
        read_picture(array)


def test_the_limit_on_pixels():
    for source in (colours(), encoded(colours()), Image.fromarray(colours())):
        assert read_picture(source, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(InputError, match="9 x 6, 54 pixels; the limit is 53.*from Python, read_picture takes"):
            read_picture(source, max_pixels=HEIGHT * WIDTH - 1)


def test_pillow_does_not_warn_of_pictures_within_the_limit():
    """Its own limit warns from half of ours on; and it is left as it was."""
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match="damaged"):  # the rows are missing: it was decoded
        read_picture(odd_pictures.bomb(side=10_000))
    assert limit == Image.MAX_IMAGE_PIXELS
    assert 2 * limit == MAX_PIXELS


def test_large_pictures_are_converted_strip_by_strip(monkeypatch):
    monkeypatch.setattr("vilbert_jax.data.picture_files._STRIP_PIXELS", 2 * WIDTH)
    for data in odd_pictures.usable().values():
        in_strips = read_picture(data)
        with monkeypatch.context() as patch:
            patch.setattr("vilbert_jax.data.picture_files._STRIP_PIXELS", 1 << 20)
            np.testing.assert_array_equal(in_strips, read_picture(data))


def test_a_pil_image_is_not_changed_and_shows_its_frame():
    image = Image.open(io.BytesIO(odd_pictures.animation()))
    image.seek(2)
    assert read_picture(image)[0, 0].tolist() == [0, 0, 255]
    assert image.tell() == 2
    assert image.size == (WIDTH, HEIGHT)


def test_reading_in_threads(tmp_path):
    files = {name: data for name, data in odd_pictures.usable().items() if name != "column.png"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = {}

    def read(path: pathlib.Path):
        found[path.name] = read_picture(path)

    threads = [threading.Thread(target=read, args=(tmp_path / name,)) for name in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, data in files.items():
        np.testing.assert_array_equal(found[name], read_picture(data))


def test_rows_that_are_too_long_for_pillow(monkeypatch):
    """It runs out of memory on rows of a hundred million pixels, whatever the machine has."""

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("vilbert_jax.data.picture_files._rgb", fails)
    with pytest.raises(InputError, match=f"rows of {WIDTH} pixels, too long"):
        read_picture(encoded(colours()))
