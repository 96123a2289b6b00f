"""Pictures are known by their content, without being opened."""

import os
import shutil
import zipfile

import numpy as np
import pytest

from vilbert_jax.extraction.sources import open_pictures


def test_states_follow_the_content_and_nothing_else(tmp_path):
    """A copy has the same, at any time and place; so has a picture among fewer."""
    content = np.random.default_rng(0).bytes(50_000)
    old = tmp_path / "old"
    old.mkdir()
    names = ["a.png", "begin.png", "end.png", "gone.png", "longer.png", "short.png"]
    for name in names:
        (old / name).write_bytes(content if name != "short.png" else content[:5])
    before = open_pictures(str(old))
    assert len(before.states) == len(set(before.states)) + 4
    assert before.states[0].startswith("50000 ")
    assert before.only(["short", "a"]).states == (before.states[0], before.states[5])
    new = shutil.copytree(old, tmp_path / "new", copy_function=shutil.copyfile)
    os.utime(new / "a.png", (1, 1))
    assert open_pictures(str(new)).states == before.states
    (new / "begin.png").write_bytes(b"." + content[1:])
    (new / "end.png").write_bytes(content[:-1] + b".")
    (new / "longer.png").write_bytes(content[:25_000] + b"." + content[25_000:])
    (new / "short.png").write_bytes(content[:4] + b".")
    (tmp_path / "list.txt").write_text("\n".join(f"new/{name}" for name in names))
    (new / "gone.png").unlink()
    after = open_pictures(str(tmp_path / "list.txt")).states
    assert [one == other for one, other in zip(before.states, after, strict=True)] == [True] + [False] * 5
    assert after[3] == "missing"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert open_pictures(str(tmp_path)).states == ("missing",)


def test_states_in_a_zip(tmp_path):
    def states(*contents):
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            for number, content in enumerate(contents):
                archive.writestr(f"{number}.png", content)
        return open_pictures(str(tmp_path / "pictures.zip")).states

    before, after = states(b"abc", b"abc"), states(b"abc", b"abd")
    assert before[0] == before[1] == after[0] != after[1]
