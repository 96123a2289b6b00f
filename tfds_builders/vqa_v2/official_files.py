"""The official files of VQA v2: what they are called, and in which archives they are handed out."""

from collections.abc import Mapping
from typing import NamedTuple

from tfds_builders.archived_files import OfficialFile


class SplitFiles(NamedTuple):
    """The files of one split; test questions have no annotations."""

    questions: OfficialFile
    annotations: OfficialFile | None


def _questions(part: str, archive: str) -> OfficialFile:
    return OfficialFile(f"v2_OpenEnded_mscoco_{part}_questions.json", f"v2_Questions_{archive}_mscoco.zip")


def _annotations(part: str, archive: str) -> OfficialFile:
    return OfficialFile(f"v2_mscoco_{part}_annotations.json", f"v2_Annotations_{archive}_mscoco.zip")


OFFICIAL_FILES: Mapping[str, SplitFiles] = {
    "train": SplitFiles(_questions("train2014", "Train"), _annotations("train2014", "Train")),
    "validation": SplitFiles(_questions("val2014", "Val"), _annotations("val2014", "Val")),
    "test": SplitFiles(_questions("test2015", "Test"), None),
    "test_dev": SplitFiles(_questions("test-dev2015", "Test"), None),
}
PUBLISHED_QUESTIONS = {"train": 443_757, "validation": 214_354, "test": 447_793, "test_dev": 107_394}
PUBLISHED_ANSWERS = 3_129
INSTRUCTIONS = (
    "Download the balanced real images' questions and annotations from https://visualqa.org/download.html and put the "
    "archives (v2_Questions_*_mscoco.zip, v2_Annotations_*_mscoco.zip), or the JSON files in them, into the manual "
    "folder"
)
