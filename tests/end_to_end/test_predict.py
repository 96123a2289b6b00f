"""experiments/predict.py as a user runs it: from a store, from a picture through a detector, beside evaluate.py."""

import dataclasses
import io
import json
import pathlib
import runpy
import sys

import numpy as np
import pytest
import small_detector
import toy_checkpoints as toys
import toy_tasks
from PIL import Image

import vilbert_jax as vj
from vilbert_jax.checkpoints.detectors import load_detector, save_detector
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.extraction.contract import contract_of
from vilbert_jax.extraction.extractor import RegionExtractor

ROOT = pathlib.Path(__file__).parents[2]
PREDICT, EVALUATE = (str(ROOT / "experiments" / name) for name in ("predict.py", "evaluate.py"))
HEADS = ("vqa", "choice", "grounding", "tokens")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The toy data, a checkpoint for them, and a detector with a checkpoint for what it sees."""
    root = tmp_path_factory.mktemp("toys")
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    toy_tasks.write_vocabulary(root)
    answers = {"answers": list(toy_tasks.ANSWERS)}
    toy_tasks.write_annotations(root, "toy_vqa", toy_tasks.QUESTION_FEATURES, toy_tasks.QUESTIONS, answers)
    toy_tasks.write_annotations(root, "toy_expressions", toy_tasks.EXPRESSION_FEATURES, toy_tasks.EXPRESSIONS)
    toys.save(root, "tasks", HEADS)
    save_detector(root / "detector.safetensors", small_detector.detector())
    contract = contract_of(small_detector.detector(), small_detector.RULE)
    toys.save(root, "seeing", HEADS, contract=contract, region_feature_dim=contract.feature_dim)
    picture().save(root / "picture.png")
    return root


def picture():
    """Coloured squares on noise; no two corners alike."""
    pixels = np.random.default_rng(0).integers(0, 80, (60, 90, 3), np.uint8)
    pixels[5:25, 10:40] = [220, 30, 30]
    pixels[30:55, 50:85] = [30, 40, 210]
    return Image.fromarray(pixels)


def predict(capsys, *arguments):
    """Runs the command in this process; returns the exit code and what it printed."""
    capsys.readouterr()  # what was printed before is not its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [PREDICT, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(PREDICT, run_name="__main__")
    printed = capsys.readouterr()
    return exit_info.value.code, printed.out, printed.err


def from_store(root, image, *more, checkpoint="tasks"):
    return (f"--checkpoint={root / checkpoint}", f"--regions={root / 'toy_regions'}", f"--image={image}", *more)


def from_picture(root, *more):
    flags = {"checkpoint": "seeing", "detector": "detector.safetensors", "image": "picture.png"}
    return (*(f"--{name}={root / file}" for name, file in flags.items()), "--boxes=3-6", *more)


def evaluated(root, recipe, annotations, output, *, checkpoint="tasks", **changes):
    """predictions.json of experiments/evaluate.py on the validation split."""
    given = {"annotations": annotations, "regions": "toy_regions", "vocab": root / "vocab.txt", "data_dir": root}
    given |= {"batch_size": 8, "text_length": 16, "max_regions": 8, "num_workers": 0, **changes}
    keys = [f"--config.{name}={value}" for name, value in given.items()]
    argv = [EVALUATE, f"--config={ROOT / 'configs' / recipe}.py", *keys, f"--checkpoint={root / checkpoint}"]
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(EVALUATE)["run"]([*argv, "--split=validation", f"--output={output}"])
    assert exit_info.value.code == 0
    return json.loads((output / "predictions.json").read_text())


def test_answers_are_those_of_an_evaluation(root, tmp_path, capsys):
    predictions = evaluated(root, "vqa", "toy_vqa", tmp_path)
    assert len(predictions) == 3
    for (_, image, question, *_), prediction in zip(toy_tasks.QUESTIONS["validation"], predictions, strict=True):
        code, out, _ = predict(capsys, *from_store(root, image, f"--question={question}", "--json"))
        assert code == 0
        found = json.loads(out)
        assert found["text"] == prediction["answer"]
        assert found["asked"] == question
        assert found["top"][0] == {"text": found["text"], "score": found["score"]}
        assert len(found["top"]) == 5


def test_boxes_are_those_of_an_evaluation(root, tmp_path, capsys):
    predictions = evaluated(root, "refcoco_plus", "toy_expressions", tmp_path)
    for (_, _, image, expression, _), prediction in zip(toy_tasks.EXPRESSIONS["validation"], predictions, strict=True):
        _, out, _ = predict(capsys, *from_store(root, image, f"--expression={expression}", "--json"))
        found = json.loads(out)
        assert found["region"] == prediction["target"]
        x1, y1, x2, y2 = found["box"]
        assert [x1, y1, x2 - x1, y2 - y1] == pytest.approx(prediction["box"])


def test_the_settings_of_the_fine_tuning_are_in_the_checkpoint(root, tmp_path, capsys):
    """Short texts, few regions, no whole picture: neither command would choose them."""
    settings = TrainedFor(text_length=4, max_regions=2, whole_image=False)
    toys.save(root, "short", HEADS, trained_for=settings)
    changes = {"text_length": 4, "max_regions": 2, "whole_image": False}
    predictions = evaluated(root, "refcoco_plus", "toy_expressions", tmp_path, checkpoint="short", **changes)
    for (_, _, image, expression, _), prediction in zip(toy_tasks.EXPRESSIONS["validation"], predictions, strict=True):
        arguments = (f"--expression={expression}", "--json")
        _, out, _ = predict(capsys, *from_store(root, image, *arguments, checkpoint="short"))
        assert json.loads(out)["region"] == prediction["target"]
        assert len(json.loads(out)["candidates"]) == min(2, len(toy_tasks.DETECTED[image].boxes))
        _, out, _ = predict(capsys, *from_store(root, image, *arguments))
        assert len(json.loads(out)["candidates"]) == len(toy_tasks.DETECTED[image].boxes) + 1


def test_what_is_printed_for_people(root, capsys):
    code, out, _ = predict(capsys, *from_store(root, "tree", "--question=what is it ?", "--top_k=3"))
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert all(line[:8].strip().endswith("%") for line in lines)
    assert lines[0].split()[-1] in toy_tasks.ANSWERS

    _, out, _ = predict(capsys, *from_store(root, "tree", "--caption=a tree", "--caption=a moon", "--caption=kite"))
    scores = [float(line.split()[0]) for line in out.splitlines()]
    assert scores == sorted(scores, reverse=True)
    assert {line.split(maxsplit=1)[1] for line in out.splitlines()} == {"a tree", "a moon", "kite"}

    _, out, _ = predict(capsys, *from_store(root, "tree", "--text=a [MASK] tree", "--top_k=2"))
    sentence, *guesses = out.splitlines()
    assert len(guesses) == 2
    assert guesses[0].split()[-1] in sentence


@pytest.mark.parametrize(
    "asked", ["--question=what is it ?", "--expression=a tree", "--caption=a tree", "--text=a [MASK]"]
)
def test_the_picture_of_an_answer_is_written_for_every_request(root, tmp_path, capsys, asked):
    code, out, _ = predict(capsys, *from_store(root, "tree", asked, f"--output={tmp_path / 'answer.png'}"))
    assert code == 0
    assert out.splitlines()[-1] == f"{tmp_path / 'answer.png'}: the picture of it"
    assert np.asarray(Image.open(tmp_path / "answer.png").convert("RGB")).std() > 1


def test_from_a_picture_through_the_detector_to_an_answer(root, tmp_path, capsys):
    code, out, _ = predict(
        capsys, *from_picture(root, "--question=what is it ?", "--json", f"--output={tmp_path / 'answer.png'}")
    )
    assert code == 0
    drawn = np.asarray(Image.open(tmp_path / "answer.png").convert("RGB"))
    assert (abs(drawn.astype(int) - [220, 30, 30]).max(-1) < 12).any()  # red is red
    extractor = RegionExtractor(load_detector(root / "detector.safetensors"), small_detector.RULE)
    (extracted,) = extractor.extract([("x", np.asarray(picture()))])
    predictor = vj.Predictor(root / "seeing", extractor)
    wanted = json.loads(out)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    for way in (root / "picture.png", buffer.getvalue(), picture(), np.asarray(picture()), extracted.record):
        answer = predictor.answer(way, "what is it ?")
        assert answer.text == wanted["text"]
        assert answer.score == pytest.approx(wanted["score"], rel=1e-5)
    swapped = predictor.answer(np.asarray(picture())[..., ::-1], "what is it ?")
    assert swapped.score != pytest.approx(wanted["score"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question=what ?", "--image=gone"], "'gone' is no image of the region store"),
        (["--question="], "a text is empty"),
        (["--text=a tree"], "write [MASK] for every hidden word"),
        (["--question=what ?", "--output=answer.jpg"], "name it NAME.png"),
        (["--question=what ?", "--top_k=0"], "--top_k is 0; it must be a whole number, at least 1"),
        (["--expression=a tree", "--top_k=0"], "--top_k is 0"),
        (["--expression=a tree", "--top_k=-3"], "--top_k is -3"),
        (["--caption=a tree", "--top_k=0"], "--top_k is 0"),
        (["--question=what \udcff is"], "holds bytes that are not UTF-8"),
        (["--question=what ?", "--image=a\udcff.png"], r"'a\udcff.png' is no image of the region store"),
        (["--question=what ?", "--image=gone"], "give --detector=FILE"),
        (["--question=what ?", "--regions=nowhere"], "no region store 'nowhere'"),
        (["--question=what ?", "--checkpoint=./nowhere"], "there is nothing at ./nowhere"),
    ],
)
def test_mistakes_are_one_message(root, capsys, arguments, message):
    code, out, err = predict(capsys, *from_store(root, "tree"), *arguments)
    assert code == 2
    assert message in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=nowhere/answer.png"], "nothing can be written into nowhere (No such file or directory)"),
        ([f"--output={__file__}/answer.png"], "test_predict.py (Not a directory)"),
        (["--output=~nobody-of-this-name/answer.png"], "nothing can be written into ~nobody-of-this-name"),
        (["--output=answer.jpg"], "name it NAME.png"),
        (["--output=answer"], "name it NAME.png"),
        (["--boxes=zzz"], "--boxes=zzz says what a detector keeps, and there is none"),
        (["--boxes=36"], "leave it out, or give --detector"),
        (["--boxes=zzz", "--detector=gone"], "boxes 'zzz' name no selection rule"),
        (["--top_k=0"], "--top_k is 0"),
    ],
)
def test_what_can_be_refused_before_anything_is_loaded_is(root, capsys, arguments, message):
    nothing = (f"--checkpoint={root / 'gone'}", f"--regions={root / 'gone'}", "--image=tree")
    code, _, err = predict(capsys, *nothing, "--question=what ?", *arguments)
    assert (code, message in err) == (2, True), err


def test_a_picture_of_an_answer_does_not_replace_a_folder(root, tmp_path, capsys):
    (tmp_path / "answer.png").mkdir()
    request = from_store(root, "tree", "--question=what ?", f"--output={tmp_path / 'answer.png'}")
    code, out, err = predict(capsys, *request)
    assert (code, out, "cannot be replaced" in err) == (2, "", True)
    assert not [*(tmp_path / "answer.png").iterdir()]


def test_somebody_has_to_look_at_the_picture(root, capsys):
    code, _, err = predict(capsys, f"--checkpoint={root / 'gone'}", "--image=x.png", "--question=what ?")
    assert code == 2
    assert "nothing can look at --image=x.png: give --detector=FILE, or --regions=STORE" in err


def test_a_name_that_is_no_utf8_is_printed_with_escapes(root, tmp_path, capsys):
    path = tmp_path / "a\udcff.png"
    code, out, _ = predict(capsys, *from_store(root, "tree", "--question=what ?", f"--output={path}"))
    assert code == 0
    assert out.splitlines()[-1].endswith(r"a\udcff.png: the picture of it")
    assert path.is_file()


def test_unknown_words_are_named_once(root, tmp_path, capsys, caplog):
    """Though the text is read twice, for the answer and for its attention."""
    request = from_store(root, "tree", "--question=what plugh is xyzzy ?", f"--output={tmp_path / 'answer.png'}")
    assert predict(capsys, *request)[0] == 0
    (message,) = [message for message in caplog.messages if "not in the vocabulary" in message]
    assert message.endswith(": plugh, xyzzy")


def test_a_detector_of_another_checkpoint_is_refused_with_what_differs(root, capsys):
    code, _, err = predict(capsys, *from_picture(root, "--question=what ?", f"--checkpoint={root / 'tasks'}"))
    assert code == 2
    assert "features a region" in err
    contract = dataclasses.replace(toy_tasks.CONTRACT, feature_dim=128)
    toys.save(root, "elsewhere", ("vqa",), contract=contract, region_feature_dim=128)
    elsewhere = f"--checkpoint={root / 'elsewhere'}"
    code, _, err = predict(capsys, *from_picture(root, "--question=what ?", elsewhere))
    assert code == 2
    assert "colour_order: 'bgr' here, 'rgb' there" in err
    code, out, _ = predict(capsys, *from_picture(root, "--question=what ?", elsewhere, "--allow_other_features"))
    assert code == 0
    assert out


def test_one_request_at_a_time(root, capsys):
    for asked in ([], ["--question=what ?", "--text=a [MASK]"]):
        code, _, err = predict(capsys, *from_store(root, "tree"), *asked)
        assert code == 2
        assert "--question" in err


def test_the_task_token_is_a_flag(root, capsys):
    toys.save(root, "tokens", ("vqa",), **toys.TASK_TOKENS)
    request = from_store(root, "tree", "--question=what ?", f"--checkpoint={root / 'tokens'}", "--json")
    code, _, err = predict(capsys, *request)
    assert (code, "task_token=NUMBER" in err) == (2, True)
    answers = [predict(capsys, *request, f"--task_token={number}")[1] for number in (0, 3)]
    assert json.loads(answers[0])["score"] != json.loads(answers[1])["score"]
