"""Which pictures a folder, list, zip or TFDS set has, and what they are called."""

import os
import zipfile

import numpy as np
import odd_pictures
import pytest
import tensorflow_datasets as tfds
from odd_pictures import colours, encoded
from PIL import Image

from vilbert_jax.data.picture_files import FORMATS
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.sources import ENDINGS, open_pictures

PNG = encoded(colours())


@pytest.fixture
def folder(tmp_path):
    """Pictures in two folders, and files that are none."""
    root = tmp_path / "pictures"
    for name in ("b.jpg", "a.JPEG", "sub/c.png", "sub/deep/two.dots.png", ".hidden/d.png", "sub/._e.jpg", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


NAMES = ("a.JPEG", "b.jpg", "sub/c.png", "sub/deep/two.dots.png")


def zipped(folder, tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/sub/._c.png", b"")
    return path


def test_a_folder_and_a_zip_of_it_have_the_same_pictures(folder, tmp_path):
    in_folder, in_zip = open_pictures(str(folder)), open_pictures(str(zipped(folder, tmp_path)))
    for pictures in (in_folder, in_zip):
        assert pictures.names == NAMES
        assert pictures.image_ids == ("a", "b", "c", "two.dots")
        assert len(pictures) == 4
        for number in range(4):
            np.testing.assert_array_equal(pictures.read(number), colours())


def test_ids_from_paths(folder, tmp_path):
    expected = ("a", "b", "sub/c", "sub/deep/two.dots")
    assert open_pictures(str(folder), "paths").image_ids == expected
    assert open_pictures(str(zipped(folder, tmp_path)), "paths").image_ids == expected


def test_ids_from_numbers(tmp_path):
    for name in ("COCO_val2014_000000000042.jpg", "7.png", "x/COCO_test2015_000000581929.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    assert open_pictures(str(tmp_path), "numbers").image_ids == ("7", "42", "581929")
    (tmp_path / "8a.png").write_bytes(PNG)
    with pytest.raises(InputError, match="8a does not end with a number; choose --image_ids=names or paths"):
        open_pictures(str(tmp_path), "numbers")


def test_numbers_of_any_length_and_in_latin_digits(tmp_path):
    long = "9" * 5000  # more than Python turns into an int
    (tmp_path / "list.txt").write_text(f"a{long}.png\nb000.png\n")
    assert open_pictures(str(tmp_path / "list.txt"), "numbers").image_ids == (long, "0")
    (tmp_path / "list.txt").write_text("a\u0664\u0662.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="does not end with a number"):
        open_pictures(str(tmp_path / "list.txt"), "numbers")


def test_a_list_has_its_own_order_and_folder(folder, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNG)
    (folder / "list.txt").write_text(f"sub/c.png\n\n  b.jpg \nmissing.jpg\n{outside}\n")
    pictures = open_pictures(str(folder / "list.txt"))
    assert pictures.names == ("sub/c.png", "b.jpg", "missing.jpg", str(outside))
    assert pictures.image_ids == ("c", "b", "missing", "outside")
    assert pictures.read(1).shape == pictures.read(3).shape == colours().shape
    with pytest.raises(InputError, match="missing.jpg: cannot be read"):
        pictures.read(2)


def test_a_list_from_another_editor(folder, monkeypatch):
    """A mark of UTF-8 in front, CRLF, a form feed in a name, the home folder."""
    monkeypatch.setenv("HOME", str(folder / "sub"))
    (folder / "list.txt").write_bytes("\ufeffb.jpg\r\n~/c.png\r\n\fé.png".encode())
    pictures = open_pictures(str(folder / "list.txt"))
    assert pictures.names == ("b.jpg", str(folder / "sub" / "c.png"), "\fé.png")
    assert pictures.read(0).shape == pictures.read(1).shape == colours().shape


def test_a_name_that_no_file_can_have_is_one_pictures_problem(folder):
    (folder / "list.txt").write_text("b.jpg\na\0b.png\nsub/c.png\n")
    pictures = open_pictures(str(folder / "list.txt"))
    assert pictures.names[1] == "a\\x00b.png"
    assert pictures.image_ids[1] == "a\\x00b"
    with pytest.raises(InputError, match="is no name that a file can have"):
        pictures.read(1)
    assert pictures.read(2).shape == colours().shape


def test_linked_folders_are_looked_into_once(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(PNG)
    for name, target in {
        "a_link": outside,
        "z_link": outside,
        ".link": tmp_path,
        "0_link": folder / "sub",  # has a path of its own
        "sub/deep/up": folder,  # a loop
        "nowhere.png": tmp_path / "none",
    }.items():
        (folder / name).symlink_to(target)
    expected = ("a.JPEG", "a_link/x.png", "b.jpg", "nowhere.png", "sub/c.png", "sub/deep/two.dots.png")
    assert open_pictures(str(folder)).names == expected
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert open_pictures(str(linked)).names == expected


def test_folders_that_cannot_be_listed_are_named(folder, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="the folder .*sub/deep cannot be listed .Permission denied.*allow reading"):
        open_pictures(str(folder))


def test_one_picture(folder):
    pictures = open_pictures(str(folder / "b.jpg"))
    assert (pictures.image_ids, pictures.read(0).shape) == (("b",), colours().shape)


def test_two_files_of_one_id_are_refused_with_both_names(folder, tmp_path):
    (folder / "sub" / "b.png").write_bytes(PNG)
    for source in (folder, zipped(folder, tmp_path)):
        with pytest.raises(InputError, match="b.jpg and sub/b.png both have the image id 'b'.*--image_ids=paths"):
            open_pictures(str(source))
        assert open_pictures(str(source), "paths").image_ids[1:3] == ("b", "sub/b")
    (tmp_path / "list.txt").write_text("x.jpg\nx.jpg\n")
    with pytest.raises(InputError, match="x.jpg and x.jpg both.*leave out or rename"):
        open_pictures(str(tmp_path / "list.txt"))


def test_what_to_do_about_two_of_one_id(folder):
    """Paths help only where all of them differ."""
    (folder / "sub" / "b.png").write_bytes(PNG)
    (folder / "sub" / "deep" / "b.png").write_bytes(PNG)
    message = r"'b' \(2 of 6 pictures have the id of an earlier one\), and a store .*: tell them apart with .*=paths"
    with pytest.raises(InputError, match=message):
        open_pictures(str(folder))
    (folder / "a.png").write_bytes(PNG)
    for mode in ("names", "paths"):
        with pytest.raises(InputError, match="a.JPEG and a.png both .*: leave out or rename one of each two"):
            open_pictures(str(folder), mode)


def test_endings_are_those_of_what_is_read():
    Image.init()
    formats = Image.registered_extensions()
    assert {formats[ending] for ending in ENDINGS - {".heic", ".heif"}} == set(FORMATS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "there is no .*none: name a folder"),
        ("", "is an empty text: name a folder"),
        ("empty", "empty has no pictures, and 1 other files.*.jpg"),
        ("empty.txt", "names no pictures"),
        ("binary.list", "cannot be read as a list of pictures"),
        ("empty.zip", "has no pictures among its 1 files"),
        ("damaged.zip", "damaged.zip cannot be read as a zip .Bad magic number"),
        ("TFDS:none/small", "no data set of pictures at"),
    ],
)
def test_sources_without_pictures(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("nothing")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.list").write_bytes(b"\xff\xfe\x00\x81")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.md", "nothing")
    (tmp_path / "damaged.zip").write_bytes((tmp_path / "empty.zip").read_bytes().replace(b"PK\1\2", b"PK\1\3"))
    path = source if source.startswith("TFDS:") or not source else str(tmp_path / source)
    with pytest.raises(InputError, match=message):
        open_pictures(path, data_dir=tmp_path)


def test_unknown_kind_of_ids(folder):
    with pytest.raises(InputError, match="image_ids is 'hash'; use one of names, paths, numbers"):
        open_pictures(str(folder), "hash")


def test_members_of_a_zip_that_cannot_be_used(tmp_path, monkeypatch):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", PNG * 50)
        archive.writestr("b.png", bytes(2000))
        archive.writestr("c.png", PNG)
    data = bytearray(path.read_bytes())
    start = data.index(b"a.png") + 5
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    monkeypatch.setattr("vilbert_jax.extraction.sources._MAX_FILE_BYTES", len(PNG) * 50)
    pictures = open_pictures(str(path))
    with pytest.raises(InputError, match="a.png: cannot be unpacked"):
        pictures.read(0)
    monkeypatch.setattr("vilbert_jax.extraction.sources._MAX_FILE_BYTES", 1999)
    with pytest.raises(InputError, match="b.png: has 2000 bytes when unpacked; the limit is 1999"):
        pictures.read(1)
    np.testing.assert_array_equal(pictures.read(2), colours())


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_names_that_are_no_utf_8_can_be_written(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(PNG)
    pictures = open_pictures(str(tmp_path))
    assert pictures.names == ("caf\\xe9.png",)
    assert pictures.image_ids[0].encode() == b"caf\\xe9"
    np.testing.assert_array_equal(pictures.read(0), colours())


class ToyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three pictures in two splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image_id": tfds.features.Text(), "image": tfds.features.Image(encoding_format="jpeg")}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(["p1", "p2"]), "validation": self._generate_examples(["p3"])}

    def _generate_examples(self, ids):
        import io

        for number, image_id in enumerate(ids):
            yield image_id, {"image_id": image_id, "image": io.BytesIO(odd_pictures.rotated(6 if number else 1))}


class SameNumbers(ToyPictures, skip_registration=True):
    """Two pictures whose ids end with one number."""

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(["p1", "q01"])}


def test_a_tfds_set_gives_the_files_as_they_are(tmp_path):
    ToyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    pictures = open_pictures("TFDS:toy_pictures", data_dir=tmp_path)
    assert sorted(pictures.image_ids) == ["p1", "p2", "p3"]
    sides = {image_id: pictures.read(k).shape[:2] for k, image_id in enumerate(pictures.image_ids)}
    assert sides == {"p1": (6, 9), "p2": (9, 6), "p3": (6, 9)}  # EXIF is still there, and honoured
    assert sorted(open_pictures("TFDS:toy_pictures", "numbers", data_dir=tmp_path).image_ids) == ["1", "2", "3"]
    assert set(pictures.states) == {"toy_pictures/1.0.0"}


def test_rows_of_one_number_are_told_apart_by_their_own_ids(tmp_path):
    SameNumbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(InputError, match="have the image id '1', and .* tell them apart with --image_ids=names"):
        open_pictures("TFDS:same_numbers", "numbers", data_dir=tmp_path)
