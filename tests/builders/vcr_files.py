"""Small files of VCR in their official format, and the command that builds them; for tests."""

import copy
import json

from tfds_builders import build
from vilbert_jax.data.annotations import open_annotations

OBJECTS = ["person", "person", "dog"]
BOXES = [[10.5, 20, 110, 220.25, 0.9], [200, 30, 300.5, 240, 0.8], [0, 0, 640, 360, 1]]
ANSWERS = [["He", "likes", "dogs", "."], [[0, 1], "are", "lost", "."], ["It", "barked", "."], [[2], "is", "café", "."]]
REASONS = [["a"], ["b", [1]], ["日本", "\u2028"], []]
PICTURE = "toy_02/c.5-7@2.json"
WITHHELD = ("answer_label", "rationale_label", "answer_orig", "rationale_orig")


def line(part, number, picture, image, **more):
    record = {
        "movie": image.partition("/")[0],
        "objects": OBJECTS,
        "img_fn": f"{image}.jpg",
        "metadata_fn": f"{image}.json",
        "question_orig": "made up",
        "question": ["Why", "is", [0], "petting", [2], "?"],
        "answer_choices": ANSWERS,
        "answer_label": 0,
        "answer_orig": "made up",
        "rationale_choices": REASONS,
        "rationale_label": 2,
        "rationale_orig": "made up",
        "img_id": f"{part}-{picture}",
        "question_number": number,
        "annot_id": f"{part}-{number}",
    }
    if part == "test":
        record = {name: value for name, value in record.items() if name not in WITHHELD}
    return copy.deepcopy(record | more)


def contents():
    """Lines of each file; val has three, the second of which asks about nothing in particular."""
    return {
        "train": [line("train", 9, 3, "toy_01/b.0@1", answer_label=3), line("train", 2, 0, "toy_01/a@0")],
        "val": [
            line("val", 42, 17, "toy_02/c.5-7@2"),
            line("val", 7, 8, "toy_02/d@0", objects=[], question=["Why", "?"], answer_choices=[[], ["x"], ["y"], []],
                 rationale_choices=[["a"], ["b"], ["c"], ["d"]], answer_label=1, rationale_label=3),
            line("val", 43, 17, "toy_02/c.5-7@2"),
        ],
        "test": [line("test", 0, 5, "toy_03/e@1"), line("test", 1, 5, "toy_03/e@1", answer_label=2)],
    }  # fmt: skip


def pictures():
    """File of metadata -> its content."""
    full = {"boxes": BOXES, "segms": [[], [], []], "names": OBJECTS, "width": 640, "height": 360}
    empty = {"boxes": [], "segms": [], "names": [], "width": 100, "height": 80}
    names = {part_line["metadata_fn"] for lines in contents().values() for part_line in lines}
    return {name: copy.deepcopy(empty if name == "toy_02/d@0.json" else full) for name in names}


def write(folder, parsed, metadata_files, annotations=""):
    for part, lines in parsed.items():
        path = folder / annotations / f"{part}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record, ensure_ascii=part != "val") + "\n" for record in lines))
    for name, content in metadata_files.items():
        path = folder / "vcr1images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def run(manual, data_dir, config="choice"):
    """Builds by the command line, as users do."""
    return build.main(["build.py", f"vcr/{config}", f"--manual_dir={manual}", f"--data_dir={data_dir}"])


def read(data_dir, split, config="choice"):
    rows = open_annotations(f"vcr/{config}", split, data_dir=data_dir, hint="")
    return rows, [rows[k] for k in range(len(rows))]


def column(data_dir, split, name, config="choice"):
    return [example[name] for example in read(data_dir, split, config)[1]]
