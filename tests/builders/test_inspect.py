"""`build.py inspect`: what it says of data sets and draws of their records."""

import functools
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from toy_sets import NAMES, PER_SHARD, RebuiltStore, ToyCaptions, ToyStore, build, make_record, truncate

from tfds_builders import build as command


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return functools.lru_cache(lambda kind: build(kind, tmp_path_factory.mktemp("built")))


def test_inspect_says_what_a_store_holds(built, tmp_path, capsys):
    output = tmp_path / "figure.png"
    Image.new("RGB", (50, 40), (0, 0, 200)).save(tmp_path / "b-003.png")
    folder = built(ToyStore)
    arguments = ["build.py", "inspect", str(folder), "--image=b-003", f"--output={output}"]
    assert command.main([*arguments, f"--pictures={tmp_path}"]) == 0
    out = capsys.readouterr().out
    lines = {line[:26].strip(): line[26:] for line in out.splitlines()}
    made = [make_record(f"{name}-{k:03d}") for name in "abc" for k in range(PER_SHARD)]
    assert lines["split train"].startswith("80 records, 2 shards, ")
    assert lines["split test"].startswith("40 records, 1 shard, ")
    assert lines["ids"] == "a-000, a-001, a-002, ..."
    assert lines["detector"] == "toy"
    assert lines["class_names"] == "background, cat, dog, cow, $5 hat"
    assert lines["storage"] == "features int8; class probabilities the 3 largest as float16"
    counts = np.array([len(record.boxes) for record in made])
    assert lines["boxes a picture"] == f"1 to 4, mean {counts.mean():.4g}"
    features = np.concatenate([record.features for record in made])
    low, high, mean, zero = (float(number) for number in re.findall(r"-?[\d.]+", lines["features"]))
    np.testing.assert_allclose([low, high, mean], [features.min(), features.max(), features.mean()], atol=0.02)
    assert zero == pytest.approx(100 * (features == 0).mean(), abs=1)
    best = np.concatenate([record.class_probs for record in made]).argmax(1)
    often = NAMES[np.bincount(best).argmax()]
    assert lines["best class, most often"].startswith(f"{often} {np.mean(best == NAMES.index(often)):.1%}")
    assert f"{len(make_record('b-003').boxes)} boxes of image 'b-003'" in out
    assert "was not found" not in out
    picture = np.asarray(Image.open(output).convert("RGB")).astype(int)
    blue = (picture[..., 2] > 150) & (picture[..., :2].max(-1) < 60)
    assert blue.mean() > 0.2, "the picture itself is shown"


def test_inspect_draws_boxes_without_a_picture(built, tmp_path, capsys):
    output = tmp_path / "figure.png"
    assert command.main(["build.py", "inspect", str(built(RebuiltStore)), f"--output={output}"]) == 0
    out = capsys.readouterr().out
    assert "boxes of image 'a-000'; the picture itself was not found" in out
    assert "class probabilities rebuilt from the features" in out
    picture = np.asarray(Image.open(output).convert("RGB")).astype(int)
    assert ((picture.max(-1) - picture.min(-1)) > 60).sum() > 200, "coloured boxes"


def test_inspect_shows_rows_of_annotations(built, capsys):
    folder = built(ToyCaptions)
    assert command.main(["build.py", "inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    for part in ("30 records, 1 shard", "made up", "train[0]", "train[2]", "a cat, számú 2", "0, 1"):
        assert part in out
    assert "train[3]" not in out
    assert command.main(["build.py", "inspect", str(folder), "--image=a-007"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("train[")] == ["train[14]", "train[15]"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ToyStore, ["--image=nix"], "image 'nix' is not in .*, a-001"),
        (ToyCaptions, ["--image=nix"], "no row of .* is about image 'nix'"),
        (ToyStore, ["--pictures=/no/such/folder"], "is no folder"),
        (ToyStore, ["--output=/no/such/folder/a.png"], "cannot be written"),
        (ToyStore, ["--output=a.what"], "cannot be written"),
    ],
)
def test_inspect_refuses_what_is_not_there(built, capsys, kind, options, message):
    assert command.main(["build.py", "inspect", str(built(kind)), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_inspect_says_when_a_store_is_damaged(built, tmp_path, capsys):
    store = shutil.copytree(built(ToyStore), tmp_path / "store")
    truncate(store / "image_ids.npy", 60)
    assert command.main(["build.py", "inspect", str(store)]) == 2
    assert "build.py verify" in capsys.readouterr().err
