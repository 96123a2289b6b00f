"""One opened split of every task, in memory: six pictures of 120 x 100 pixels with one to six boxes."""

from test_pretraining_data import WORDS, Store

from vilbert_jax.data.answers import AnswerLabels
from vilbert_jax.data.examples import Examples, ExamplesConfig
from vilbert_jax.data.person_names import NAMES
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.tasks.grounding import Expressions, Grounding
from vilbert_jax.tasks.retrieval import Captions, Retrieval
from vilbert_jax.tasks.vcr import VCR, Choices, Question
from vilbert_jax.tasks.vqa import VQA, Questions

NUM_IMAGES = 6
ANSWERS = ("red", "blue", "circle", "square", "left")


def write_vocab(folder):
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def opened(vocab, rows, **settings):
    """The settings of a task's data, and rows as if they had been opened with them."""
    config = ExamplesConfig(
        annotations="toy", regions="toy", vocab=str(vocab), batch_size=2, text_length=12, max_regions=6, **settings
    )
    tokenizer = load_tokenizer(str(vocab))
    return config, Examples(config, "validation", rows, (Store(),), tokenizer, None, {})


def vqa(vocab, num_questions=12, answers=("red", "blue"), **settings):
    """Question k is about picture k mod 6; ``answers`` take turns."""
    rows = [
        {
            "question_id": 100 + k,
            "image_id": f"image{k % NUM_IMAGES}".encode(),
            "question": f"is n{k} left of the red circle".encode(),
            "question_type": b"is",
            "answer_type": b"other",
            "answers": [answers[k % len(answers)].encode()] * 10 if answers else [],
        }
        for k in range(num_questions)
    ]
    config, examples = opened(vocab, rows, **settings)
    return VQA(data=config), Questions(examples, AnswerLabels(ANSWERS))


def vcr(vocab, passes="both", labelled=True, choices=("red", "blue", "circle", "square"), **settings):
    """Four items; of item k, answer k and reason 3 - k are right."""
    rows = [
        {
            "annot_id": f"validation-{k}".encode(),
            "image_id": f"image{k}".encode(),
            "question": f"is n{k}".encode(),
            "answer_choices": [f"the {choice} n{k}".encode() for choice in choices],
            "answer_label": k if labelled else -1,
            "rationale_choices": [f"a {choice} is left of the {choice} n{k}".encode() for choice in choices],
            "rationale_label": 3 - k if labelled else -1,
        }
        for k in range(4)
    ]
    config, examples = opened(vocab, rows, **settings)
    answers = [Question(k, "answer", -1) for k in range(4)]
    reasons = [Question(k, "rationale", after) for k in range(4) for after in ([k] if labelled else range(4))]
    questions = {"answer": answers, "rationale": reasons, "both": answers + reasons}[passes]
    return VCR(data=config, passes=passes), Choices(examples, tuple(questions), NAMES)


def grounding(vocab, **settings):
    """Expression k means the first box of picture k, exactly."""
    store = Store()
    rows = []
    for k in range(NUM_IMAGES):
        x1, y1, x2, y2 = store[f"image{k}"].boxes[0]
        row = {"sent_id": 10 + k, "image_id": f"image{k}".encode(), "sentence": b"the red circle"}
        rows.append(row | {"box": [x1, y1, x2 - x1, y2 - y1]})
    config, examples = opened(vocab, rows, **settings)
    return Grounding(data=config), Expressions(examples, False, True)


def retrieval(vocab, **settings):
    """Two captions a picture."""
    rows = [
        {"image_id": f"image{k}".encode(), "captions": [f"a red n{k}".encode(), f"n{k} of the left".encode()]}
        for k in range(NUM_IMAGES)
    ]
    config, examples = opened(vocab, rows, **settings)
    return Retrieval(data=config), Captions(examples, 2, None)
