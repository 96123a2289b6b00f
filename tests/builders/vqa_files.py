"""Small files of VQA v2 in their official format, and the command that builds them; for tests."""

import json

from tfds_builders import build
from tfds_builders.vqa_v2.official_files import OFFICIAL_FILES
from vilbert_jax.data.annotations import open_annotations

TRAIN, TRAIN_ANNOTATIONS = (file.name for file in OFFICIAL_FILES["train"])
VALIDATION, VALIDATION_ANNOTATIONS = (file.name for file in OFFICIAL_FILES["validation"])
TEST, TEST_DEV = (OFFICIAL_FILES[split].questions.name for split in ("test", "test_dev"))
DIFFERENT = ["sky"] * 4 + ["in sky"] * 3 + ["air"] * 2 + ["日本"]


def question(question_id, text="Is it?"):
    return {"image_id": question_id // 1000, "question": text, "question_id": question_id}


def annotation(question_id, answers=("yes",) * 10, **more):
    record = {
        "question_type": "is it",
        "multiple_choice_answer": answers[0],
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(answers, start=1)],
        "image_id": question_id // 1000,
        "answer_type": "yes/no",
        "question_id": question_id,
    }
    return record | more


def contents():
    """The files, parsed. Yes is the answer of 9 questions, sky of one."""
    train = [8001, 8000, 7002, 7000, 7001, 9000]
    validation = [5001, 5000, 4000, 6000]
    return {
        TRAIN: {"questions": [question(k, f"Is it {k} – café?") for k in train]},
        TRAIN_ANNOTATIONS: {"annotations": [annotation(k) for k in reversed(train)]},
        VALIDATION: {"questions": [question(k) for k in validation]},
        VALIDATION_ANNOTATIONS: {
            "annotations": [
                *(annotation(k) for k in validation[:3]),
                annotation(6000, DIFFERENT, question_type="where is the", answer_type="other"),
            ]
        },
        TEST: {"questions": [question(k) for k in (3001, 3000, 2000)]},
        TEST_DEV: {"questions": [question(3000)]},
    }


def encoded(content):
    head = {"info": {"version": "made up"}, "license": {}, "data_type": "mscoco"}
    return json.dumps(head | content, ensure_ascii=False).encode()


def write(folder, parsed):
    folder.mkdir(exist_ok=True)
    for name, content in parsed.items():
        (folder / name).write_bytes(encoded(content))
    return folder


def run(manual, data_dir, *more):
    """Builds by the command line, as users do."""
    return build.main(["build.py", "vqa_v2", f"--manual_dir={manual}", f"--data_dir={data_dir}", *more])


def read(data_dir, split):
    rows = open_annotations("vqa_v2", split, data_dir=data_dir, hint="")
    return rows, [rows[k] for k in range(len(rows))]


def ids(data_dir, split):
    return [example["question_id"] for example in read(data_dir, split)[1]]
