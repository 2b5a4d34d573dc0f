"""Listings of folders with their sub-folders, and names that records get from paths."""

import collections
import os
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from pdl_jax.storage import paths

_MAX_DEPTH = 8
_LITTER = ('__MACOSX',)


class RecordNames(NamedTuple):
    """Names of a record.

    Attributes:
      file_name: name of the image, with folders only where the name alone is not unique.
      annotation_file_name: name of the PNG that a prediction gets, unique in the split.
    """

    file_name: str
    annotation_file_name: str


def list_tree(folder: epath.Path, suffixes: Sequence[str], *, remedy: str) -> tuple[str, ...]:
    """Lists the files with some endings in a folder and its sub-folders, except hidden ones.

    Args:
      folder: the folder.
      suffixes: endings such as '.png'; case is ignored.
      remedy: end of the error about a missing folder or file.

    Returns:
      Paths relative to the folder, sorted.

    Raises:
      FileNotFoundError: the folder is missing or has no such file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {os.fspath(folder)} does not exist: {remedy}')
    endings = tuple(suffix.lower() for suffix in suffixes)
    found: list[str] = []
    is_remote = paths.is_remote(folder)
    visited: set[str] = set()

    def visit(inner: epath.Path, prefix: str, depth: int) -> None:
        # Links may lead round in circles.
        place = os.fspath(inner) if is_remote else os.path.realpath(inner)
        if place in visited or depth > _MAX_DEPTH:
            return
        visited.add(place)
        for name in sorted(path.name for path in inner.iterdir()):
            if name.startswith('.') or name in _LITTER:
                continue
            if name.lower().endswith(endings):
                found.append(prefix + name)
            # In a bucket is_dir costs a request per name, so names with an ending count as files.
            elif not (is_remote and '.' in name) and (inner / name).is_dir():
                visit(inner / name, f'{prefix}{name}/', depth + 1)

    visit(folder, '', 0)
    if not found:
        raise FileNotFoundError(
            f'folder {os.fspath(folder)} holds no file *{" or *".join(suffixes)}: {remedy}'
        )
    return tuple(found)


def list_stems(
    folder: epath.Path, suffixes: Sequence[str], *, remedy: str, tails: Sequence[str] = ()
) -> dict[str, str]:
    """Lists files as `list_tree`, by their paths without ending.

    Args:
      folder, suffixes, remedy: see `list_tree`.
      tails: what tools append to names, such as '_mask'; it is cut off where all names have it.

    Returns:
      Path without ending and tail -> path, both relative to `folder`.

    Raises:
      FileNotFoundError: the folder is missing or has no such file.
      ValueError: two paths differ only in their endings.
    """
    found: dict[str, str] = {}
    listing = list_tree(folder, suffixes, remedy=remedy)
    stems = [remove_suffix(path) for path in listing]
    tail = next((t for t in tails if all(stem.endswith(t) for stem in stems)), '')
    for stem, path in zip(stems, listing, strict=True):
        key = stem.removesuffix(tail)
        if key in found:
            raise ValueError(
                f'{os.fspath(folder)} holds {found[key]} and {path}: names without the ending must '
                f'be unique'
            )
        found[key] = path
    return found


def remove_suffix(path: str) -> str:
    """Returns a path without the ending of its name."""
    folder, slash, name = path.rpartition('/')
    return folder + slash + (name.rpartition('.')[0] or name)


def name_records(image_paths: Sequence[str]) -> list[RecordNames]:
    """Returns the names of the records of some images.

    Raises:
      ValueError: two images would get predictions of the same name.
    """
    stems = [remove_suffix(path).rpartition('/')[2] for path in image_paths]
    counts = collections.Counter(stems)
    names = []
    path_of_name: dict[str, str] = {}
    for path, stem in zip(image_paths, stems, strict=True):
        is_unique = counts[stem] == 1
        file_name = path.rpartition('/')[2] if is_unique else path
        # Predictions are written to one folder.
        prediction = (stem if is_unique else remove_suffix(path).replace('/', '_')) + '.png'
        if prediction in path_of_name:
            raise ValueError(
                f'{path_of_name[prediction]} and {path}: the predictions of both would be '
                f'{prediction}: rename one'
            )
        path_of_name[prediction] = path
        names.append(RecordNames(file_name, prediction))
    return names
