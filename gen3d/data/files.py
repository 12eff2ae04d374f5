"""The files of a scene as other systems leave them: how they spell a path, and how they mark a text."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path, PurePosixPath

from core2d.app.errors import InputError
from core2d.media.pictures import READABLE_SUFFIXES, is_pointer

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class PictureFinder:
    """Finds the pictures of a scene by the names that the scene gives them.

    A name is taken as it stands where there is such a file. Else backslashes part folders, letter case and how accents
    are composed do not count, and a name without suffix is that of a picture of any kind, a PNG first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._listings: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path:
        """The file that a name means; where there is none, the place where it should be.

        Raises:
            InputError: a name that cannot be looked up, such as one that is too long.
        """
        try:
            return self._find(name)
        except OSError as error:
            raise InputError(f"{self.folder}: {name[:60]!r} cannot be looked up: {error.strerror}") from error

    def _find(self, name: str) -> Path:
        literal = self.folder / name
        *folders, last = PurePosixPath(name.replace("\\", "/")).parts or (name,)
        if literal.is_file():
            return literal
        place = self.folder
        for part in folders:
            place = self._inside(place, part)
        endings = ("",) if last.lower().endswith(READABLE_SUFFIXES) else ("", *READABLE_SUFFIXES)
        found = (self._inside(place, last + ending) for ending in endings)
        return next((path for path in found if path.is_file()), place / (last + endings[:2][-1]))

    def _inside(self, folder: Path, name: str) -> Path:
        """The entry of a folder that a name means, or the place where it should be."""
        path = folder / name
        if path.exists():
            return path
        if folder not in self._listings:
            entries = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []  # the first of several counts
            self._listings[folder] = {_key(entry.name): entry for entry in entries}
        return self._listings[folder].get(_key(name), path)


def read_text(path: Path) -> str:
    """A text in UTF-8, or in what its byte-order mark says; the mark is no part of it.

    Raises:
        InputError: a Git LFS pointer.
        UnicodeDecodeError: no such text.
    """
    refuse_pointer(path)
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer of Git LFS.

    Raises:
        InputError: it is one.
    """
    if is_pointer(path):
        raise InputError(f"{path} is a Git LFS pointer: fetch the file itself with `git lfs pull`")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
