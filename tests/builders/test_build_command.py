"""The build command and the embedded data: what they accept, refuse and build."""

import pathlib
import subprocess
import sys

import pytest

from tfds_builders import build, embedded, scenes
from vilbert_jax.errors import InputError

ROOT = pathlib.Path(build.__file__).parents[1]


def test_names_folders_and_configs_mean_the_same():
    for name in ("scenes", str(ROOT / "tfds_builders" / "scenes"), str(ROOT / "tfds_builders" / "scenes") + "/"):
        (args,) = build.parse(["build.py", name, "--config=captions_small", "--data_dir=/data"])
        assert args.positional_datasets == ["scenes"]
        assert args.generation.imports == "tfds_builders.scenes"
        assert args.generation.config == "captions_small"
        assert str(args.generation.file_format) == "array_record"
        assert str(args.paths.data_dir) == "/data"
    first, second = build.parse(["build.py", "scenes/captions_small", "scenes/regions"])
    assert first.positional_datasets == ["scenes/captions_small"]
    assert second.positional_datasets == ["scenes/regions"]


def test_a_folder_elsewhere_is_left_to_tfds(tmp_path):
    (tmp_path / "mine").mkdir()
    (args,) = build.parse(["build.py", str(tmp_path / "mine")])
    assert args.positional_datasets == [str(tmp_path / "mine")]
    assert not args.generation.imports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scene"], "no data set 'scene'; there are .*scenes"),
        (["scenes", "--config=tiny"], "no config 'tiny'; it has .*captions_small"),
        (["scenes/tiny"], "no config 'tiny'"),
        (["scenes/captions", "--config=captions"], "named twice"),
        ([], "no data set named; there are .*scenes"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments, message):
    with pytest.raises(InputError, match=message):
        build.parse(["build.py", *arguments])


@pytest.mark.parametrize("program", [["tfds_builders/build.py"], ["-m", "tfds_builders.build"]])
def test_errors_reach_the_shell_without_a_traceback(program):
    done = subprocess.run(
        [sys.executable, *program, "scenes", "--config=none_such"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: scenes has no config 'none_such'")
    assert "Traceback" not in done.stderr


@pytest.fixture
def few(monkeypatch):
    """Makes `ensure` believe that a config is there once its folder has a dataset_info.json; builds nothing."""
    built = []

    def pretend(names, folder, seconds):
        assert seconds > 0
        built.append(list(names))
        for name in names:
            (folder / name / str(scenes.Builder.VERSION)).mkdir(parents=True)
            (folder / name / str(scenes.Builder.VERSION) / "dataset_info.json").write_text("{}")

    monkeypatch.setattr(embedded, "_build", pretend)
    return built


def test_ensure_builds_only_what_is_missing(few, tmp_path):
    embedded.ensure(["scenes/captions_small"], tmp_path / "new")
    embedded.ensure(["scenes/captions_small", "scenes/regions_small", "scenes/regions_small"], tmp_path / "new")
    embedded.ensure(["scenes/captions_small", "scenes/regions_small"], tmp_path / "new")
    assert few == [["scenes/captions_small"], ["scenes/regions_small"]]


def test_ensure_refuses_other_names(few, tmp_path):
    with pytest.raises(InputError, match=r"coco/captions: no such embedded data set; there are scenes/regions_small"):
        embedded.ensure(["scenes/captions", "coco/captions"], tmp_path)
    assert not few


def test_ensure_says_when_building_fails(tmp_path, capfd):
    names = ["scenes/captions_small"]
    blocked = tmp_path / "scenes"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"failed with exit code 1.*tfds_builders\.build scenes/captions_small"):
        embedded.ensure(names, tmp_path)
    assert "building scenes/captions_small" in capfd.readouterr().err


def test_two_processes_that_ask_at_once_build_once(tmp_path):
    program = (
        "import sys, time, pathlib\n"
        "from tfds_builders import embedded\n"
        "def pretend(names, folder, seconds):\n"
        "    print('built', flush=True)\n"
        "    time.sleep(0.5)\n"
        f"    made = folder / names[0] / '{scenes.Builder.VERSION}'\n"
        "    made.mkdir(parents=True)\n"
        "    (made / 'dataset_info.json').write_text('{}')\n"
        "embedded._build = pretend\n"
        "embedded.ensure(['scenes/captions_small'], sys.argv[1])\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert "".join(said) == "built\n"
