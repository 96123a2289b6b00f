"""Extractions that are interrupted anywhere, or go into the folder of another one."""

import contextlib
import dataclasses
import fcntl
import json
import signal

import numpy as np
import pytest
from small_detector import picture
from toy_extraction import CONTRACT, PICTURES_A_PART, ToyExtractor, ToySource, extract, extracted_from

from tfds_builders.region_features import extracted
from vilbert_jax.data.region_codec import Storage, encode_record
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction import parts, run
from vilbert_jax.extraction.parts import Identity, Outcome, Parts, only_one, read_part


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(run, "_PICTURES_A_PART", PICTURES_A_PART)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The store that every extraction is to give in the end."""
    output = tmp_path_factory.mktemp("data") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_PICTURES_A_PART", PICTURES_A_PART)
        extract(ToySource(), output)
    return output


class Killed(BaseException):
    """What a kill is like: nothing is cleaned up, because everything that could fails."""


def killed_while_writing_parts(patch, after):
    write, count = Parts.write, [0]

    def dies(self, outcomes):
        count[0] += 1
        if count[0] > after:
            raise Killed
        write(self, outcomes)

    patch.setattr(Parts, "write", dies)


def dying(*_, **__):
    raise Killed


def killed_while_it_moves(patch):
    """TFDS's own renaming, within the folder of the parts, is done."""
    rename = run.os.rename
    patch.setattr(run.os, "rename", lambda old, new: rename(old, new) if ".extraction" in str(new) else dying())


def killed_before_a_part_has_its_name(patch):
    replace = parts.os.replace
    patch.setattr(parts.os, "replace", lambda old, new: replace(old, new) if str(new).endswith("json") else dying())


POINTS = {
    "before the first part": lambda patch: killed_while_writing_parts(patch, 0),
    "after two parts": lambda patch: killed_while_writing_parts(patch, 2),
    "before there is anything": lambda patch: patch.setattr(parts.os, "replace", dying),
    "before a part has its name": killed_before_a_part_has_its_name,
    "before the last part": lambda patch: killed_while_writing_parts(patch, 5),
    "while the store is built": lambda patch: patch.setattr(extracted.ExtractedRegions, "finish", dying),
    "before the store has its place": killed_while_it_moves,
    "before the parts are removed": lambda patch: patch.setattr(Parts, "remove", dying),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_extraction_goes_on(point, uninterrupted, tmp_path, monkeypatch):
    source, output = ToySource(), tmp_path / "toy"
    with monkeypatch.context() as patch:
        POINTS[point](patch)
        with pytest.raises(Killed):
            extract(source, output)
    assert (output / "1.0.0").exists() == (point == "before the parts are removed")
    again = ToySource()
    extract(again, output)
    assert RegionStore(output).fingerprint == RegionStore(uninterrupted).fingerprint
    for name in ("unreadable.tsv", "fell_short.tsv"):
        assert (output / name).read_text() == (uninterrupted / name).read_text()
    assert not (output / ".extraction").exists()
    if point == "after two parts":
        assert sorted(again.loads) == list(range(2 * PICTURES_A_PART, 21))
    if "store" in point or point == "before the parts are removed":
        assert not again.loads


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_what_is_finished_is_saved_when_a_run_ends_early(interrupt, uninterrupted, tmp_path):
    """Also pictures that do not fill a part."""

    class Interrupted(ToyExtractor):
        def extract_ready(self, pictures):
            for number, found in enumerate(super().extract_ready(pictures)):
                if number == 4:  # 0, 1, 2, and 5, since 3 and 4 cannot be read
                    raise interrupt
                yield found

    source, output = ToySource(), tmp_path / "toy"
    with pytest.raises(interrupt):
        extract(source, output, Interrupted())
    again = ToySource()
    extract(again, output)
    assert sorted(again.loads) == list(range(6, 21))
    assert RegionStore(output).fingerprint == RegionStore(uninterrupted).fingerprint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_is_saved_after_a_signal(number, uninterrupted, tmp_path):
    """No exception goes through whatever runs when it comes."""

    class Signalled(ToyExtractor):
        def extract_ready(self, pictures):
            for count, found in enumerate(super().extract_ready(pictures)):
                if count == 3:
                    signal.raise_signal(number)
                yield found

    source, output = ToySource(), tmp_path / "toy"
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        extract(source, output, Signalled())
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = ToySource()
    extract(again, output)
    assert sorted(again.loads) == list(range(4, 21))  # 3, which cannot be read, was the next outcome
    assert RegionStore(output).fingerprint == RegionStore(uninterrupted).fingerprint


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"contract": {}}'])
def test_what_was_begun_cannot_be_told(damage, tmp_path):
    Parts(tmp_path, Identity(contract=CONTRACT, storage=Storage(), num_pictures=21, pictures="abc"))
    (tmp_path / ".extraction" / "identity.json").write_text(damage)
    with pytest.raises(InputError, match=r"identity.json is damaged .*delete .*\.extraction and start"):
        extract(ToySource(), tmp_path)


def test_a_folder_with_others_in_it_is_refused_before_the_work(tmp_path):
    (tmp_path / "1.0.0").mkdir()
    source = ToySource()
    with pytest.raises(InputError, match=r"has the folder '1\.0\.0', which is no finished extraction"):
        extract(source, tmp_path)
    assert not source.loads
    assert not (tmp_path / ".extraction").exists()


IDS, NAMES = ToySource().set.image_ids, ToySource().set.names
OTHERS = {
    "detector": (lambda: {}, dict(weights_hash="xyz"), "weights_hash: 'xyz' here, 'abc' there"),
    "rule": (lambda: {}, dict(selection_rule="best 9"), "selection_rule: 'best 9' here, 'all' there"),
    "storage": (lambda: {"storage": Storage(features="float16")}, {}, "storage: .*float16.* here, .*int8"),
    "pictures": (lambda: {"source": ToySource(count=20)}, {}, "pictures: 20 here, 21 there"),
    "names": (lambda: {"source": ToySource(ids=tuple(map(str, range(21))))}, {}, "pictures: other files, contents or"),
    "ids": (
        lambda: {"source": ToySource(ids=tuple("abcdefghijklmnopqrstu"), names=NAMES)},
        {},
        "pictures: other files",
    ),
    "order": (lambda: {"source": ToySource(ids=IDS[::-1])}, {}, "pictures: .* or another order"),
    "contents": (lambda: {"source": ToySource(state="other")}, {}, "pictures: other files, contents or image ids"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("state", ["finished", "begun"])
def test_another_extraction_into_the_same_folder_is_refused(what, state, uninterrupted, tmp_path, monkeypatch):
    options, fields, message = OTHERS[what]
    options = options()
    other = ToyExtractor()
    other.contract = dataclasses.replace(CONTRACT, **fields)
    output = uninterrupted
    if state == "begun":
        output = tmp_path / "toy"
        with monkeypatch.context() as patch:
            killed_while_writing_parts(patch, 2)
            with pytest.raises(Killed):
                extract(ToySource(), output)
    said = "was begun with something else:\n.*" if state == "begun" else "was made from something else:\n.*"
    source = options.pop("source", ToySource())
    with pytest.raises(InputError, match=said + message):
        extract(source, output, other, **options)
    assert not source.loads


def test_one_extraction_at_a_time(tmp_path):
    with only_one(tmp_path), pytest.raises(InputError, match="another process is extracting to"):
        extract(ToySource(), tmp_path)
    extract(ToySource(count=2, bad=()), tmp_path)
    assert len(RegionStore(tmp_path)) == 2


@pytest.mark.parametrize("another", [False, True])
def test_a_lock_whose_holder_ends_meanwhile_is_taken_anew(another, tmp_path, monkeypatch):
    """Between opening its file and locking it the file is removed, and perhaps made and locked by somebody else."""
    flock, file, calls = fcntl.flock, tmp_path / ".extraction.lock", []
    with contextlib.ExitStack() as others:

        def late(handle, how):
            calls.append(how)
            if len(calls) == 1:
                file.unlink()
                if another:
                    others.enter_context(only_one(tmp_path))
            flock(handle, how)

        monkeypatch.setattr(parts.fcntl, "flock", late)
        if another:
            with pytest.raises(InputError, match="another process"), only_one(tmp_path):
                pass
            assert file.exists()  # it is not ours
        else:
            with only_one(tmp_path), pytest.raises(InputError, match="another process"), only_one(tmp_path):
                pass
        assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_named_and_can_be_made_again(uninterrupted, tmp_path, monkeypatch):
    source, output = ToySource(), tmp_path / "toy"
    with monkeypatch.context() as patch:
        patch.setattr(extracted.ExtractedRegions, "finish", dying)
        with pytest.raises(Killed):
            extract(source, output)
    second = sorted((output / ".extraction").glob("*.npz"))[1]
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(InputError, match="000000004-000000008.npz is damaged .*delete it and start the same command"):
        extract(source, output)
    second.unlink()
    again = ToySource()
    extract(again, output)
    assert sorted(again.loads) == [4, 5, 6, 7]
    assert RegionStore(output).fingerprint == RegionStore(uninterrupted).fingerprint


def test_folders_that_are_taken(uninterrupted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file; name a folder"):
        extract(ToySource(), tmp_path / "file")
    metadata = json.loads((uninterrupted / "1.0.0" / "metadata.json").read_text())
    del metadata["extraction"]
    (tmp_path / "imported" / "1.0.0").mkdir(parents=True)
    (tmp_path / "imported" / "1.0.0" / "dataset_info.json").write_text("{}")
    (tmp_path / "imported" / "1.0.0" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="is there already, and was not made by an extraction; name another folder"):
        extract(ToySource(), tmp_path / "imported")
    with pytest.raises(InputError, match="0 readers: expected at least one thread"):
        extract(ToySource(), tmp_path / "store", num_readers=0)


def test_a_part_gives_back_what_it_was_given(tmp_path):
    identity = Identity(contract=CONTRACT, storage=Storage(), num_pictures=9, pictures="hash")
    opened = Parts(tmp_path, identity)
    record = extracted_from(ToyExtractor().ready("a name", picture(9, 11))).record
    example = encode_record(record, CONTRACT, Storage())
    written = [Outcome(3, None, problem="damaged"), Outcome(4, example, fell_short=True), Outcome(5, example)]
    opened.write(written)
    opened.write([Outcome(7, None, problem="also damaged")])
    found = [outcome for path in Parts(tmp_path, identity).paths for outcome in read_part(path)]
    assert [(o.number, o.fell_short, o.problem) for o in found] == [
        (3, False, "damaged"), (4, True, ""), (5, False, ""), (7, False, "also damaged"),
    ]  # fmt: skip
    for outcome in found[1:3]:
        assert outcome.example.keys() == example.keys()
        for name, value in example.items():
            np.testing.assert_array_equal(outcome.example[name], value)
            assert np.asarray(outcome.example[name]).dtype.kind == np.asarray(value).dtype.kind
    assert np.flatnonzero(opened.done).tolist() == [3, 4, 5, 7]
