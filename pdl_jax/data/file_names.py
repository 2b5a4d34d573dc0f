"""Files of a folder by the names that annotation files give them.

Tools write names with folders, backslashes, %20, absolute paths of another machine, another
composition of accents or another ending. A name is looked up in listings of the folder and of
folders below it, so that no name leads out of it; a name that could mean two files is refused.

The module needs only the standard library, so that commands that read files start at once.
"""

import itertools
import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from pdl_jax.data.notices import Notices

if TYPE_CHECKING:
    from etils import epath

FilePath: TypeAlias = 'pathlib.Path | epath.Path'

_MAX_PARTS = 64
_MAX_DEPTH = 8
_LITTER = ('__MACOSX',)
_DRIVE = re.compile(r'^[A-Za-z]:(?=/)')
# Names of the images of Cityscapes in its annotation file, and on the disk.
_CITYSCAPES = ('_gtFine_leftImg8bit', '_leftImg8bit')


def fold_name(name: str) -> str:
    """Returns a form of a file name that is equal for names that differ in case or composition.

    macOS writes ü as u and a combining mark where other systems write one character.
    """
    return unicodedata.normalize('NFC', name).casefold()


def find_files(
    names: Sequence[str],
    folder: FilePath,
    suffixes: Sequence[str],
    source: str,
    notices: Notices,
) -> list[str]:
    """Finds the files that an annotation file names.

    Args:
      names: the names.
      folder, suffixes, notices: see `FolderFiles`.
      source: name of the annotation file, for error messages.

    Returns:
      The path of each, relative to `folder`.

    Raises:
      FileNotFoundError: the folder or a file is missing.
      ValueError: two names mean the same file, or one may mean two.
    """
    files = FolderFiles(folder, suffixes, notices)
    found = {name: files.find(name, source) for name in names}
    missing = [name for name in names if found[name] is None]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} files that {source} names are not in {folder}, first '
            f'{missing[0][:200]}: check that the folder belongs to this annotation file'
        )
    name_of_path: dict[str, str] = {}
    paths_found: list[str] = []
    for name in names:
        path = found[name]
        assert path is not None
        if path in name_of_path:
            other = name_of_path[path]
            both = f'{name!r} is named twice' if name == other else f'{other!r} and {name!r} both'
            raise ValueError(
                f'file_name of {source}: {both} lead to {path} in {folder}: every image needs its '
                f'own file'
            )
        name_of_path[path] = name
        paths_found.append(path)
    return paths_found


class FolderFiles:
    """The files below a folder, found by name."""

    def __init__(self, folder: FilePath, suffixes: Sequence[str], notices: Notices) -> None:
        """Lists the folder; one listing is cheaper than a test per file.

        Args:
          folder: the folder.
          suffixes: endings, in lower case, that a file may have instead of the one in its name.
          notices: collection of remarks about names that are not those of the files.

        Raises:
          FileNotFoundError: the folder is missing.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f'folder {folder} does not exist (or is no folder)')
        self._folder = folder
        self._suffixes = tuple(suffixes)
        self._notices = notices
        self._listings: dict[str, _Listing | None] = {'': _Listing(folder, '')}
        self._tree: dict[str, list[str]] | None = None

    def find(self, name: str, where: str) -> str | None:
        """Finds the file that a name means.

        Args:
          name: the name, or a path; see `split_name`.
          where: place of the name, for error messages.

        Returns:
          The path relative to the folder; None where there is no such file.

        Raises:
          ValueError: the name leads out of the folder, or could mean two files.
        """
        found = self._find_parts(split_name(name, where), name, where)
        if found is None and '%' in name:
            found = self._find_parts(split_name(urllib.parse.unquote(name), where), name, where)
            if found is not None:
                self._tell('names are written with %20 and the like: decoded', name, found)
        return found

    def _find_parts(self, parts: list[str], name: str, where: str) -> str | None:
        # The whole path first: its end only counts if it is a path of another place.
        for start in range(len(parts)):
            listing = self._list('/'.join(parts[start:-1]), where)
            found = None if listing is None else self._find_file(listing, parts[-1], name, where)
            if found is not None:
                if start:
                    text = f'names hold folders that are not below {self._folder.name}: left out'
                    self._tell(text, name, found)
                return found
        return self._find_deeper(parts, name, where)

    def _find_file(self, listing: '_Listing', file: str, name: str, where: str) -> str | None:
        found = file
        if file not in listing.names:
            similar = listing.find_similar(file, self._suffixes)
            if similar is None:
                return None
            text, candidates = similar
            self._refuse_several([listing.prefix + c for c in candidates], name, where)
            found = candidates[0]
            self._tell(f'{text} from those of the files', name, listing.prefix + found)
        if found in listing.links:
            # Caches of downloads consist of such links.
            path = listing.prefix + found
            if _leads_out(self._folder / path, self._folder):
                text = f'files are links that lead out of {self._folder.name}: followed'
                self._notices.add(text, path)
        return listing.prefix + found

    def _find_deeper(self, parts: list[str], name: str, where: str) -> str | None:
        """Looks in all folders below, such as the cities by which Cityscapes sorts images."""
        if self._tree is None:
            self._tree = {}
            self._visit('', 0)
        file = parts[-1]
        names = sorted({file, file.replace(*_CITYSCAPES)})
        candidates = [path for n in names for path in self._tree.get(n, [])]
        if not candidates:
            candidates = self._tree.get(fold_name(file), [])
        # The folders decide as far as the name gives them.
        agreement = {path: _count_equal_ends(path.split('/'), parts) for path in candidates}
        best = max(agreement.values(), default=0)
        found = [path for path, count in agreement.items() if count == best]
        self._refuse_several(found, name, where)
        if not found:
            return None
        if len(parts) > 1 or found[0].rsplit('/', 1)[-1] not in names:
            self._tell('names differ from the paths of the files', name, found[0])
        return found[0]

    def _visit(self, inner: str, depth: int) -> None:
        listing = self._list(inner.rstrip('/'), '') if depth <= _MAX_DEPTH else None
        if listing is None or self._tree is None:
            return
        for name in sorted(listing.names):
            # In a bucket is_dir costs a request per name, so names with an ending count as files.
            if name.startswith('.') or name in _LITTER:
                continue
            if '.' in name:
                for key in {name, fold_name(name)}:
                    self._tree.setdefault(key, []).append(inner + name)
            elif name not in listing.links or not _leads_out(
                self._folder / (inner + name), self._folder
            ):
                self._visit(f'{inner}{name}/', depth + 1)

    def _list(self, inner: str, where: str) -> '_Listing | None':
        """Returns the listing of a folder below, None where there is none."""
        if inner not in self._listings:
            self._listings[inner] = None
            outer, _, last = inner.rpartition('/')
            parent = self._list(outer, where)
            if parent is not None and (actual := parent.find_folder(last)) is not None:
                path = self._folder / (parent.prefix + actual)
                if path.is_dir():
                    if '://' not in os.fspath(path):
                        self._refuse_escape(path, where)
                    self._listings[inner] = _Listing(path, f'{parent.prefix}{actual}/')
        return self._listings[inner]

    def _refuse_escape(self, path: FilePath, where: str) -> None:
        if _leads_out(path, self._folder):
            raise ValueError(
                f'{where}: file_name leads over the link {path} out of {self._folder}: copy the '
                f'files into the folder, or give the folder that holds them'
            )

    def _refuse_several(self, candidates: Sequence[str], name: str, where: str) -> None:
        if len(candidates) > 1:
            raise ValueError(
                f'{where}: file_name {name!r} could mean {candidates[0]} or {candidates[1]} in '
                f'{self._folder}: write the path below that folder into file_name'
            )

    def _tell(self, text: str, name: str, found: str) -> None:
        self._notices.add(text, f'{name} -> {found}')


class _Listing:
    """The names in a folder, of files and of folders.

    Attributes:
      prefix: path of the folder with a slash at its end, '' for the outermost one.
      names: the names.
      links: those of them that are symbolic links.
    """

    def __init__(self, folder: FilePath, prefix: str) -> None:
        self.prefix = prefix
        self.links: set[str] = set()
        if '://' in os.fspath(folder):
            self.names = {path.name for path in folder.iterdir()}
        else:
            with os.scandir(folder) as entries:
                listed = [(entry.name, entry.is_symlink()) for entry in entries]
            self.names = {name for name, _ in listed}
            self.links = {name for name, is_link in listed if is_link}
        self._by_fold: dict[str, list[str]] | None = None
        self._by_stem: dict[str, list[str]] = {}

    def find_folder(self, name: str) -> str | None:
        """Returns the name of the folder that is meant, by its letters if not exactly."""
        if name in self.names:
            return name
        similar = self._list_by_fold().get(fold_name(name), [])
        return similar[0] if len(similar) == 1 else None

    def find_similar(self, file: str, suffixes: Sequence[str]) -> tuple[str, list[str]] | None:
        """Returns the most likely names that may be meant, and wording for the difference."""
        folded = fold_name(file)
        found = self._list_by_fold().get(folded)
        if found:
            return 'names differ in case or in the composition of letters', found
        if not self._by_stem:
            for name in sorted(self.names):
                stem, suffix = os.path.splitext(fold_name(name))
                if suffix in suffixes:
                    self._by_stem.setdefault(stem, []).append(name)
        # A name without an ending may have a dot inside: frame_1.25.
        stem, suffix = os.path.splitext(folded)
        has_ending = suffix in suffixes or suffix[1:].isalpha()
        for candidate in (folded, stem) if has_ending else (folded,):
            if found := self._by_stem.get(candidate):
                return 'names differ in their ending', found
        return None

    def _list_by_fold(self) -> dict[str, list[str]]:
        if self._by_fold is None:
            self._by_fold = {}
            for name in sorted(self.names):
                self._by_fold.setdefault(fold_name(name), []).append(name)
        return self._by_fold


def _count_equal_ends(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the number of folders that two paths have in common, from the file outwards."""
    pairs = zip(reversed(first[:-1]), reversed(second[:-1]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _leads_out(path: FilePath, folder: FilePath) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) != root


def split_name(name: str, where: str) -> list[str]:
    """Splits a file name from an annotation into folders and file, on / and on backslashes.

    A leading slash, a drive and ./ are dropped.

    Args:
      name: the name.
      where: place of the name, for error messages.

    Raises:
      ValueError: the name is empty or no text that a file can have, or leads out of a folder.
    """
    parts = _DRIVE.sub('', name.replace('\\', '/')).split('/')
    parts = [part for part in parts if part not in ('', '.')]
    is_text = '\0' not in name and not any('\ud800' <= c <= '\udfff' for c in name)
    if not parts or '..' in parts or not is_text or len(parts) > _MAX_PARTS:
        raise ValueError(
            f'{where}: file_name {name[:200]!r} must be a path below the given folder, without '
            f'"..", so that nothing outside of it is read'
        )
    return parts
