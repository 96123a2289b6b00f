"""Official files that lie in the manual folder as they are, or still in the zip archive they are handed out in."""

import hashlib
import zipfile
import zlib
from typing import NamedTuple

from etils import epath

from vilbert_jax.errors import InputError


class OfficialFile(NamedTuple):
    """A file, and the archive that it is handed out in."""

    name: str
    archive: str


class FoundFile(NamedTuple):
    """Where a file lies.

    Attributes:
        path: the file, or the archive.
        member: its name in the archive; None where it is not packed.
    """

    path: epath.Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.member is None else f"{self.path}/{self.member}"


class FileNote(NamedTuple):
    """What the metadata says of a file that was read."""

    name: str
    rows: int
    bytes: int
    sha256: str


def find(folder: epath.Path, file: OfficialFile) -> FoundFile | None:
    """Where an official file is: in the folder, or else in its archive there.

    Raises:
        InputError: the archive is none, or does not hold the file's name.
    """
    plain, archive = folder / file.name, folder / file.archive
    if plain.exists():
        return FoundFile(plain)
    if not archive.exists():
        return None
    with archive.open("rb") as packed:
        try:
            members = zipfile.ZipFile(packed).namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"{archive} is no whole zip archive ({error}): download it again") from error
    named = [member for member in members if member.rpartition("/")[2] == file.name]
    if len(named) != 1:
        raise InputError(
            f"{archive} should hold one file {file.name}; it holds {len(named)} of that name among "
            f"{', '.join(members) or 'no file at all'}: download it again"
        )
    return FoundFile(archive, named[0])


def read(file: FoundFile) -> bytes:
    """The content of a file.

    Raises:
        InputError: the archive is damaged.
    """
    if file.member is None:
        return file.path.read_bytes()
    with file.path.open("rb") as packed:
        try:
            return zipfile.ZipFile(packed).read(file.member)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"{file} is damaged ({error}): download {file.path.name} again") from error


def describe(file: FoundFile, content: bytes, rows: int) -> FileNote:
    """The note on a file of so many records."""
    name = file.path.name if file.member is None else f"{file.path.name}/{file.member}"
    return FileNote(name, rows, len(content), hashlib.sha256(content).hexdigest())
