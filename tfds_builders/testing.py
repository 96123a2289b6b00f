"""A test of TFDS builders that needs no TensorFlow, in place of `tfds.testing.DatasetBuilderTestCase`.

    from tfds_builders import testing            # the module, so that the base class is not collected as a test

    class CaptionsTest(testing.BuilderTest):
        BUILDER, SPLITS = Builder, {"train": 5, "validation": 2}

Every config is built from the folder dummy_data beside the builder, read back as a user without our code would read
it, and checked for what TFDS itself does not check: unique examples, splits that share nothing, documentation.
"""

import inspect
import pathlib
import sys
import tempfile
import unittest
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata


class BuilderTest(unittest.TestCase):
    """Builds all configs of one builder and checks them; extend `check_example` and `check` for a data set's own rules.

    Attributes:
        BUILDER: the builder's class.
        CONFIGS: the configs to build, names or config objects; by default all of the builder.
        SPLITS: split -> number of examples, or config name -> such a dict where the configs differ.
        UNIQUE: config name -> feature that must not repeat within a data set, for example "question_id".
        APART: feature that no two splits may share, for example "image_id"; None to skip.
        OPTIONS: further arguments of the builder.
    """

    BUILDER: ClassVar[Any] = None
    CONFIGS: ClassVar[Sequence[Any] | None] = None
    SPLITS: ClassVar[dict[str, Any]] = {}
    UNIQUE: ClassVar[dict[str, str]] = {}
    APART: ClassVar[str | None] = None
    OPTIONS: ClassVar[dict[str, Any]] = {}

    def setUp(self):
        """Skips the base class itself."""
        if self.BUILDER is None:
            self.skipTest("base class")
        self.folder = pathlib.Path(inspect.getfile(self.BUILDER)).parent

    def test_every_config(self):
        """Builds, reads back and checks every config."""
        configs = self.BUILDER.BUILDER_CONFIGS if self.CONFIGS is None else self.CONFIGS
        for config in configs or [None]:
            name = getattr(config, "name", config)
            with self.subTest(config=name), tempfile.TemporaryDirectory() as root:
                made = self.BUILDER(config=config, data_dir=root, file_format="array_record", **self.OPTIONS)
                manual = tfds.download.DownloadConfig(manual_dir=self.folder / "dummy_data")
                made.download_and_prepare(download_config=manual)
                self.check(tfds.builder_from_directory(made.data_dir), str(name))
        assert "tensorflow" not in sys.modules

    def test_documentation(self):
        """Every data set says what it is, whom to cite, and carries valid tags."""
        assert len((self.folder / "README.md").read_text()) > 100
        assert (self.folder / "CITATIONS.bib").exists()
        assert self.BUILDER.RELEASE_NOTES
        tags = set(self.BUILDER.get_metadata().tags)
        assert tags
        assert tags <= set(dataset_metadata.valid_tags())

    def check(self, stored: tfds.core.DatasetBuilder, config: str) -> None:
        """Checks one data set read back from disk."""
        unique = self.UNIQUE.get(config)
        found: dict[str, int] = {}
        seen: set[Any] = set()
        owner: dict[Any, str] = {}
        for split in stored.info.splits:
            rows = stored.as_data_source(split=split)  # pyright: ignore[reportCallIssue]
            found[split] = len(rows)
            for k in range(len(rows)):
                example = rows[k]
                if unique is not None:
                    assert example[unique] not in seen, f"{config}: {unique} repeats"
                    seen.add(example[unique])
                if self.APART is not None:
                    assert owner.setdefault(example[self.APART], split) == split
                self.check_example(example, config)
        self.check_counts(found, config)

    def check_counts(self, found: dict[str, int], config: str) -> None:
        """Checks the number of examples in every split."""
        assert found == self.SPLITS.get(config, self.SPLITS)

    def check_example(self, example: dict[str, Any], config: str) -> None:
        """Checks one example; to be extended."""
