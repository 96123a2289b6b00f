"""Building with Apache Beam gives, byte for byte, what building without it gives; most skip where there is no Beam."""

import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import region_dumps
import test_conceptual_captions as captions

from tfds_builders import build, shard_writing
from tfds_builders.conceptual_captions import conceptual_captions_dataset_builder as captions_builder
from tfds_builders.scenes import scenes_dataset_builder as scenes_builder
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

ROOT = pathlib.Path(build.__file__).parents[1]
CAPTIONS = "tfds_builders/conceptual_captions"
# Beam starts threads and warns, so it gets a process of its own; {} is for what a test changes there.
PROGRAM = (
    "import sys\nfrom tfds_builders import build\n{}\nif __name__ == '__main__':\n    sys.exit(build.main(sys.argv))"
)
DIRECT = ("--beam_runner=DirectRunner",)
PROCESSES = (*DIRECT, "--beam_pipeline_options=direct_running_mode=multi_processing,direct_num_workers=2")
DETECTOR = "--contract=butd_36"

# TFDS calls protobuf in a way that warns in the version that Beam holds it at.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")
with_beam = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed")


def run(data_dir, *arguments, change=""):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(change), *arguments, f"--data_dir={data_dir}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def same(tmp_path, *arguments, beam=DIRECT, change=""):
    """Builds without and with Beam, compares all files and returns the folder."""
    for where, more in (("without", ()), ("with", beam)):
        done = run(tmp_path / where, *arguments, *more, change=change)
        assert done.returncode == 0, done.stderr
    without, with_ = contents(tmp_path / "without"), contents(tmp_path / "with")
    assert without.keys() == with_.keys()
    assert not [name for name in without if without[name] != with_[name]]
    return tmp_path / "with"


def write_parts(folder, counts):
    """A dump in several files, each of which becomes a shard; some boxes must be clipped."""
    made = region_dumps.pictures(sum(counts), boxes=3)
    boxes = made[5].boxes.copy()
    boxes[0] = [-2, 1, made[5].width, made[5].height]
    made[5] = made[5]._replace(boxes=boxes)
    left = iter(made)
    for number, count in enumerate(counts):
        part = folder / f"part{number:02d}"
        part.mkdir(parents=True)
        region_dumps.vilbert_tsv(part, [next(left) for _ in range(count)])
    return f"{folder}/*/*", made


@with_beam
@pytest.mark.parametrize("beam", [DIRECT, PROCESSES])
def test_region_features(tmp_path, beam):
    counts = [1, 2, 3, 1, 2, 1, 1, 2, 1, 4, 1, 3]  # more than ten shards of unlike lengths
    source, made = write_parts(tmp_path / "dump", counts)
    folder = same(tmp_path, "region_features", f"--source={source}", "--config=mine", DETECTOR, beam=beam)
    store = RegionStore(folder / "region_features" / "mine")
    assert len(list(store.path.glob("*.array_record*"))) == len(counts)
    assert b'"clipped_boxes": 1' in (store.path / "metadata.json").read_bytes()
    for p in made:
        assert (store[p.image_id].boxes[1:] == p.boxes[1:]).all()


@with_beam
def test_conceptual_captions(tmp_path):
    rows = [(f"caption {k}", captions.url(k)) for k in range(25)]
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / captions.TRAIN).write_bytes(captions.lines(rows))
    (tmp_path / "manual" / captions.VALIDATION).write_bytes(captions.lines(captions.HELD_OUT))
    change = (
        "from tfds_builders.conceptual_captions import conceptual_captions_dataset_builder as b; b._ROWS_A_SHARD = 2"
    )
    arguments = ("conceptual_captions", f"--manual_dir={tmp_path / 'manual'}")
    folder = same(tmp_path, *arguments, change=change) / "conceptual_captions" / "captions" / "1.0.0"
    found, _ = captions.read_back(folder)
    assert found == {"train": rows, "validation": captions.HELD_OUT}
    assert len(list(folder.glob("*train.array_record*"))) == 13


@with_beam
@pytest.mark.parametrize("config", ["regions_tiny", "captions_tiny"])
def test_scenes(tmp_path, config):
    change = (
        "from tfds_builders import scenes; from tfds_builders.scenes import scenes_dataset_builder as b; "
        "b._SCENES_A_SHARD = 3; "
        "b.Builder.BUILDER_CONFIGS = b.make_configs('tiny', {'train': 8, 'test': 2}, calibration_scenes=20)"
    )
    same(tmp_path, f"scenes/{config}", change=change)


@with_beam
@pytest.mark.parametrize("beam", [DIRECT, PROCESSES])
def test_an_image_id_that_two_shards_have_is_named(tmp_path, beam):
    source, made = write_parts(tmp_path / "dump", [2, 2, 2])
    region_dumps.vilbert_tsv(tmp_path / "dump" / "part02", [made[4], made[0]])
    done = run(tmp_path, "region_features", f"--source={source}", "--config=mine", DETECTOR, *beam)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"image id {made[0].image_id!r} occurs" in last
    with pytest.raises(InputError, match="no region store"):
        RegionStore(tmp_path / "region_features" / "mine")


@with_beam
@pytest.mark.parametrize("beam", [DIRECT, PROCESSES])
def test_what_a_worker_refuses_arrives_as_one_error(tmp_path, beam):
    source, made = write_parts(tmp_path / "dump", [2, 2, 2])
    features = made[3].features.copy()
    features[1, 1] = np.nan
    file = region_dumps.vilbert_tsv(tmp_path / "dump" / "part01", [made[2], made[3]._replace(features=features)])
    done = run(tmp_path, "region_features", f"--source={source}", "--config=mine", DETECTOR, *beam)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {file}, row 2")
    assert "while running" not in last
    assert not list((tmp_path / "region_features" / "mine").glob("*1.0.0/*"))


@with_beam
def test_a_runner_that_does_not_exist_is_refused(tmp_path):
    source, _ = write_parts(tmp_path / "dump", [6])
    done = run(tmp_path, "region_features", f"--source={source}", "--config=mine", DETECTOR, "--beam_runner=Nobody")
    assert done.returncode == 2
    assert "error: Beam cannot use runner Nobody" in done.stderr
    assert "Traceback" not in done.stderr


def like_beam(plan):
    """What Beam may do: copies of the plan, any order, a shard twice because a worker was lost or slow."""
    numbers = range(len(plan.shards))
    for number in [*reversed(numbers), numbers[0]]:
        pickle.loads(pickle.dumps(plan)).write(number)


@pytest.mark.parametrize("kind", ["region_features", "conceptual_captions", "regions", "captions", "expressions"])
def test_shards_are_written_alike_in_any_process_and_order(tmp_path, monkeypatch, kind):
    configs = scenes_builder.make_configs("tiny", {"train": 8, "test": 2}, calibration_scenes=20)
    monkeypatch.setattr(scenes_builder, "_SCENES_A_SHARD", 3)
    # First the property that TFDS makes of the list: it would remember the patched one for good.
    monkeypatch.setattr(scenes_builder.Builder, "builder_configs", {config.name: config for config in configs})
    monkeypatch.setattr(scenes_builder.Builder, "BUILDER_CONFIGS", configs)
    monkeypatch.setattr(captions_builder, "_ROWS_A_SHARD", 2)
    source, _ = write_parts(tmp_path / "dump", [3, 1, 2])
    arguments = {
        "region_features": ["region_features", f"--source={source}", "--config=mine", DETECTOR],
        "conceptual_captions": ["conceptual_captions", f"--manual_dir={ROOT / CAPTIONS / 'dummy_data'}"],
    }.get(kind, [f"scenes/{kind}_tiny"])
    for where, write in (("plain", shard_writing.write_here), ("like_beam", like_beam)):
        monkeypatch.setattr(shard_writing, "write_here", write)
        assert build.main(["build.py", *arguments, f"--data_dir={tmp_path / where}"]) == 0
    plain = contents(tmp_path / "plain")
    assert len([name for name in plain if "array_record" in name]) > 2
    assert contents(tmp_path / "like_beam") == plain


def test_without_beam_installed_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"needs apache-beam.*pip install 'vilbert-jax\[beam\]'"):
        build.parse(["build.py", "scenes/captions_small", *DIRECT])


def test_options_without_a_runner_are_refused():
    with pytest.raises(InputError, match="are for --beam_runner=NAME"):
        build.parse(["build.py", "scenes/captions_small", "--beam_pipeline_options=direct_num_workers=2"])


def test_runner_and_options_reach_tfds(monkeypatch):
    monkeypatch.setattr(shard_writing, "require_beam", lambda: None)
    more = ("--beam_pipeline_options=a=1,b=2", '--download_config={"num_shards": 3}')
    (args,) = build.parse(["build.py", "scenes/captions_small", *DIRECT, *more])
    assert args.generation.beam_pipeline_options == "runner=DirectRunner,a=1,b=2"
    assert args.generation.download_config == '{"num_shards": 3, "beam_runner": "DirectRunner"}'
