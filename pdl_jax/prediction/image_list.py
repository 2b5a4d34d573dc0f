"""Lists of images to predict: from glob patterns, text files, folders or gs:// prefixes."""

import contextlib
import difflib
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from absl import logging

from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import explain_bucket_errors, is_remote, make_path, refuse_address

_MAX_KEY_CHARACTERS = 64
# Files of a folder that a message names.
_MAX_LISTED = 10


def find_images(patterns: Iterable[str]) -> list[str]:
    """Finds the image files that words of --images stand for, sorted, without duplicates.

    Args:
      patterns: files; folders, which stand for the images in them but not below; or patterns, in
        which ** matches any depth. A file of exactly this name counts before a pattern, so that
        photo[1].jpg may be given. ~ is the home folder. Of a gs:// pattern only the last part may
        hold wildcards.

    Raises:
      FileNotFoundError: one of them stands for nothing.
      ValueError: one is the address of a web page.
    """
    found = set()
    for pattern in patterns:
        refuse_address(pattern)
        if is_remote(pattern):
            folder, name = pattern.rsplit('/', 1)
            matches = [str(path) for path in make_path(folder).glob(name)]
        else:
            matches = _find_local(pattern)
        if not matches:
            raise FileNotFoundError(f'--images={pattern}: {_explain_nothing(pattern)}')
        found.update(matches)
    return sorted(found)


def _find_local(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        return _list_folder(path)
    if os.path.exists(path):
        return [path]
    return [match for match in glob.glob(path, recursive=True) if not os.path.isdir(match)]


def _list_folder(folder: str) -> list[str]:
    """Lists the files of a folder that are named as images, and logs those left out."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.is_dir() and not e.name.startswith('.'))
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    others = [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    if others:
        few = ', '.join(others[:_MAX_LISTED]) + (', ...' if len(others) > _MAX_LISTED else '')
        logging.info('%s: %d files are not named as images: %s', folder, len(others), few)
    return [os.path.join(folder, name) for name in images]


def _explain_nothing(pattern: str) -> str:
    """Words the reason why nothing was found."""
    path = os.path.expanduser(pattern)
    if is_remote(pattern):
        return 'no such file'
    if os.path.isdir(path):
        return (
            f'no file in this folder ends in {", ".join(IMAGE_SUFFIXES)}; --prefix={pattern} looks '
            f'in the folders below too'
        )
    folder, name = os.path.split(path)
    if glob.has_magic(path):
        is_folder = bool(glob.glob(path, recursive=True))
        return 'the pattern matches folders only' if is_folder else 'the pattern matches no file'
    if folder and not os.path.isdir(folder):
        return f'there is no folder {folder}'
    with os.scandir(folder or '.') as entries:
        # Looking for a similar name among all would take minutes in a large folder.
        names = [entry.name for entry in itertools.islice(entries, 1000)]
    close = difflib.get_close_matches(name, names, 1)
    return f'no such file or folder{f"; did you mean {close[0]}?" if close else ""}'


def read_list(path: str) -> list[str]:
    """Reads a text file, local or gs://, with one path per line; keeps the order, drops duplicates.

    The images are not opened: a missing one is reported when it is predicted.
    """
    # File names need not be UTF-8.
    text = read_outside_file(path).decode(errors='surrogateescape')
    lines = (line.rstrip('\r') for line in text.split('\n'))
    return list(dict.fromkeys(line for line in lines if line.strip()))


def find_below(prefix: str) -> list[str]:
    """Finds the image files at any depth below a folder or a gs:// prefix by suffix, sorted.

    Raises:
      FileNotFoundError: there is none.
    """
    found = sorted(path for path in _walk(prefix) if path.lower().endswith(IMAGE_SUFFIXES))
    if not found:
        raise FileNotFoundError(
            f'--prefix={prefix}: no file below it ends in {", ".join(IMAGE_SUFFIXES)}'
        )
    return found


def _walk(prefix: str) -> Iterator[str]:
    if not is_remote(make_path(prefix)):
        for folder, _, names in os.walk(os.path.expanduser(prefix)):
            yield from (os.path.join(folder, name) for name in names)
        return
    # One listing of all objects; epath would send requests per folder and per file.
    import fsspec

    system, root = fsspec.url_to_fs(prefix, use_listings_cache=False)
    # A bucket that does not exist is treated as an empty one.
    with contextlib.suppress(FileNotFoundError), explain_bucket_errors(prefix):
        yield from (system.unstrip_protocol(name) for name in system.find(root))


def stem_of(path: str) -> str:
    """Returns the last part of a path without its suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def name_results(paths: Sequence[str]) -> dict[str, str]:
    """Names the results of images: by the stem of the image, or by more where stems are equal.

    Of a.jpg and a.png the results are named a_jpg and a_png, of x/a.jpg and y/a.jpg x_a_jpg and
    y_a_jpg. Upper and lower case count as equal, as some file systems do.

    Args:
      paths: paths of the images, each once.

    Returns:
      The name by path.
    """
    choices = {path: _list_names(path) for path in paths}
    level = dict.fromkeys(paths, 0)
    while True:
        groups: dict[str, list[str]] = {}
        for path in paths:
            groups.setdefault(choices[path][level[path]].lower(), []).append(path)
        equal = [group for group in groups.values() if len(group) > 1]
        movable = [p for group in equal for p in group if level[p] + 1 < len(choices[p])]
        if not movable:
            break
        for path in movable:
            level[path] += 1
    names = {path: choices[path][level[path]] for path in paths}
    taken = {name.lower() for name in names.values()}
    for path in (path for group in equal for path in group[1:]):
        numbered = (f'{names[path]}_{i}' for i in itertools.count(2))
        names[path] = next(name for name in numbered if name.lower() not in taken)
        taken.add(names[path].lower())
    return names


def _list_names(path: str) -> list[str]:
    """Lists names for the results of an image, from the shortest to the most particular."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    full = f'{stem}_{suffix[1:]}' if len(suffix) > 1 else stem
    folders = [
        part for part in os.path.dirname(path).split('/') if part.strip('.:') and part[-1] != ':'
    ]
    longer = ['_'.join([*folders[-i:], full]) for i in range(1, len(folders) + 1)]
    return [stem, full, *longer]


def refuse_overwriting(paths: Iterable[str], results: Iterable[str]) -> None:
    """Checks that no result would take the place of an image.

    Raises:
      ValueError: names the image.
    """
    images = {os.path.realpath(path): path for path in paths if not is_remote(path)}
    for result in results:
        image = images.get(os.path.realpath(result))
        if image is not None:
            raise ValueError(f'a result would overwrite the image {image}: give another --output')


def make_key(position: int, path: str) -> str:
    """Returns a name for the results of one image: unique, sorted like the list, a safe file name.

    Args:
      position: position of the image in the list.
      path: path of the image. Characters of its stem other than letters, digits and '-' become '_':
        WebDataset readers take the first dot for the end of the key.
    """
    stem = re.sub(r'[^A-Za-z0-9-]+', '_', stem_of(path))[:_MAX_KEY_CHARACTERS]
    return f'{position:09d}-{stem}'


def list_images(patterns: Iterable[str], list_path: str | None, prefix: str | None) -> list[str]:
    """Lists the images of patterns, of a list and below a prefix, each once.

    Raises:
      FileNotFoundError: the list is missing, or a pattern or the prefix stands for nothing.
      ValueError: there is no image.
    """
    paths = find_images(patterns) + (read_list(list_path) if list_path else [])
    paths += find_below(prefix) if prefix else []
    if not paths:
        raise ValueError('there are no images: give --images, --prefix or a non-empty --list')
    return list(dict.fromkeys(paths))
