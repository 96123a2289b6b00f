"""experiments/extract_features.py as a user runs it: folders of odd pictures, kills, other detectors, recipes."""

import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import odd_pictures
import pytest
import small_detector

from vilbert_jax.checkpoints.detectors import load_detector, save_detector
from vilbert_jax.data.annotations import open_regions
from vilbert_jax.data.picture_files import read_picture
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.contract import contract_of
from vilbert_jax.extraction.extractor import RegionExtractor

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = str(ROOT / "experiments" / "extract_features.py")
BOXES = {"boxes": "3-6"}  # small_detector.RULE


def run(**flags):
    """Runs the command in this process; returns its exit code."""
    main = runpy.run_path(COMMAND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [COMMAND, *(f"--{name}={value}" for name, value in flags.items())])
        with pytest.raises(SystemExit) as exit_info:
            main["cli"].guarded(main["main"])
    return exit_info.value.code


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_detector(path, small_detector.detector())
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with every odd picture, and every file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, data in odd_pictures.usable().items():
        (folder / name).write_bytes(data)
    (folder / "broken").mkdir()
    for name, (data, _) in odd_pictures.unusable().items():
        (folder / "broken" / name).write_bytes(data)
    for k in range(40):
        (folder / f"many_{k:02d}.png").write_bytes(odd_pictures.encoded(small_detector.picture(30 + k, 50, seed=k)))
    return folder


@pytest.fixture(scope="module")
def store(weights, pictures, tmp_path_factory):
    """The store, the folder of data sets that it lies in, and what was said on stderr."""
    data_dir = tmp_path_factory.mktemp("data")
    output = data_dir / "region_features" / "odd"
    assert run(weights=weights, images=pictures, output=output, image_ids="paths", **BOXES) == 0
    return output


def assert_same_regions(store, image_id, extracted):
    """Up to how features are stored, and the last bits of sums in batches."""
    found, expected = store[image_id], extracted.record
    assert (found.width, found.height) == (expected.width, expected.height)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    step = np.abs(expected.features).max(axis=1, keepdims=True) / 127
    assert (np.abs(found.features - expected.features) <= 0.51 * step + 1e-4).all()
    np.testing.assert_array_equal(found.class_probs.argmax(axis=1), expected.class_probs.argmax(axis=1))


def test_a_folder_gives_what_one_picture_at_a_time_gives(store, weights, pictures):
    """On eight devices, in batches, read by threads; and alone."""
    opened = RegionStore(store)
    assert sorted(opened.image_ids) == sorted(
        pathlib.Path(path.name).stem for path in pictures.iterdir() if path.is_file()
    )
    alone = RegionExtractor(load_detector(weights), small_detector.RULE)
    for name in odd_pictures.usable():
        (extracted,) = alone.extract([(name, read_picture(pictures / name))])
        assert_same_regions(opened, pathlib.Path(name).stem, extracted)


def test_unusable_files_are_listed_with_reasons(store):
    lines = (store / "unreadable.tsv").read_text().splitlines()
    listed = dict(line.split("\t") for line in lines[1:])
    assert lines[0] == "file\treason"
    assert listed.keys() == {f"broken/{name}" for name in odd_pictures.unusable()}
    for name, (_, reason) in odd_pictures.unusable().items():
        assert reason in listed[f"broken/{name}"]


def test_the_contract_is_that_of_the_weights_and_the_choice(store, weights):
    assert RegionStore(store).contract == contract_of(load_detector(weights), small_detector.RULE)
    assert open_regions("region_features/odd", data_dir=store.parents[1], hint="").contract.weights_hash


def test_again_it_is_left_alone_and_other_choices_are_refused(store, weights, pictures, tmp_path, capsys):
    same = dict(weights=weights, images=pictures, output=store, image_ids="paths")
    assert run(**same, **BOXES) == 0
    assert f"{store} is complete already" in capsys.readouterr().err
    assert run(**same, boxes="4-6") == 2
    assert "selection_rule: 'per-class NMS 0.3 on proposals, score 0.2, 4 to 6; box" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("\n".join(f"thing {k}" for k in range(20)))
    assert run(**same, **BOXES, class_names=tmp_path / "names.txt") == 2
    assert "class_names: 21 names here, 0 there" in capsys.readouterr().err


def test_other_pictures_under_the_same_names_are_refused(store, weights, pictures, tmp_path, capsys):
    """A copy of them is not."""
    copied = shutil.copytree(pictures, tmp_path / "copied", copy_function=shutil.copyfile)
    same = dict(weights=weights, images=copied, output=store, image_ids="paths", **BOXES)
    assert run(**same) == 0
    data = (copied / "many_07.png").read_bytes()
    (copied / "many_07.png").write_bytes(data[:-1] + b".")
    assert run(**same) == 2
    assert f"{store} is complete, and was made from something else:\n  pictures: " in capsys.readouterr().err


def test_a_killed_extraction_goes_on(store, weights, pictures, tmp_path):
    output = tmp_path / "killed"
    flags = dict(weights=weights, images=pictures, output=output, image_ids="paths", **BOXES)
    command = [sys.executable, COMMAND, *(f"--{name}={value}" for name, value in flags.items())]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(output.glob(".extraction/*.npz")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (output / "1.0.0").exists(), "it was over before it could be killed"
    assert list(output.glob(".extraction/*.npz"))
    assert run(**flags) == 0
    assert not (output / ".extraction").exists()
    found, expected = RegionStore(output), RegionStore(store)
    assert found.image_ids == expected.image_ids
    for image_id in found.image_ids:
        np.testing.assert_array_equal(found[image_id].boxes, expected[image_id].boxes)
        np.testing.assert_allclose(found[image_id].features, expected[image_id].features, rtol=0.02, atol=1e-3)
    assert (output / "unreadable.tsv").read_text() == (store / "unreadable.tsv").read_text()


def test_batch_size_is_that_of_each_device(weights, pictures, tmp_path, monkeypatch, capsys):
    def asked(detector, rule, *, batch_size, mesh):
        raise InputError(f"{batch_size} pictures on {mesh.size} devices")

    monkeypatch.setattr("vilbert_jax.extraction.extractor.RegionExtractor", asked)
    assert run(weights=weights, images=pictures, output=tmp_path, image_ids="paths", batch_size=3, **BOXES) == 2
    assert "24 pictures on 8 devices" in capsys.readouterr().err


def test_given_boxes_are_described(weights, pictures, tmp_path, capsys):
    boxes = {"many_03": [[1, 2, 20, 25], [30, 5, 50, 30]], "many_01": [[0, 0, 50, 31]]}
    lines = [json.dumps({"image_id": image_id, "boxes": rows}) for image_id, rows in boxes.items()]
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    flags = dict(weights=weights, images=pictures, image_ids="paths", output=tmp_path / "given")
    assert run(**flags, given_boxes=tmp_path / "boxes.jsonl") == 0
    said = capsys.readouterr()
    assert "pictures have no given boxes and are left out" in said.err
    assert "tiny: every parameter found, 0 other entries of the file left out\n2 pictures, " in said.out
    found = RegionStore(tmp_path / "given")
    assert {image_id: found[image_id].boxes.tolist() for image_id in found.image_ids} == boxes
    assert run(**flags, given_boxes=tmp_path / "boxes.jsonl", boxes="3-6") == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"weights": "none.safetensors"}, "none.safetensors"),
        ({"images": "none"}, "there is no none: name a folder"),
        ({"boxes": "many"}, "name no selection rule"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"readers": 0}, "0 readers"),
        ({"images": "TFDS:none/pictures"}, "no data set of pictures"),
        ({"given_boxes": "none.jsonl"}, "given boxes: none.jsonl cannot be read"),
    ],
)
def test_flags_that_cannot_be_used(flags, message, weights, pictures, tmp_path, capsys):
    given = dict(weights=weights, images=pictures, output=tmp_path / "store", image_ids="paths", data_dir=tmp_path)
    assert run(**given | flags) == 2
    assert message in capsys.readouterr().err


def test_embedded_pictures_are_built(weights, tmp_path, monkeypatch, capsys):
    def asked(names, data_dir):
        raise InputError(f"asked for {names} in {data_dir}")

    monkeypatch.setattr("tfds_builders.embedded.ensure", asked)
    flags = dict(weights=weights, output=tmp_path / "store", data_dir=tmp_path)
    assert run(images="TFDS:scenes/pictures_small", **flags) == 2
    assert f"asked for ['scenes/pictures_small'] in {tmp_path}" in capsys.readouterr().err
