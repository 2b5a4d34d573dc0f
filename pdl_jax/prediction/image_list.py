"""Lists of images to predict: from glob patterns, text files, folders or gs:// prefixes."""

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator

from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.paths import (
    explain_bucket_errors,
    is_remote,
    make_path,
    refuse_web_address,
)

_MAX_KEY_CHARACTERS = 64


def find_images(patterns: Iterable[str]) -> list[str]:
    """Expands glob patterns to image files, sorted, without duplicates.

    Args:
      patterns: local patterns, in which ** matches any depth, or gs:// patterns, in which only the
        last part may hold wildcards.

    Raises:
      FileNotFoundError: a pattern matches nothing.
    """
    found = set()
    for pattern in patterns:
        refuse_web_address(pattern)
        if '://' in pattern:
            folder, name = pattern.rsplit('/', 1)
            matches = [str(path) for path in make_path(folder).glob(name)]
        else:
            matches = glob.glob(pattern, recursive=True)
        if not matches:
            raise FileNotFoundError(
                f'--images={pattern}: no such file; quote the pattern, so that the shell does not '
                f'expand it'
            )
        found.update(matches)
    return sorted(found)


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


def refuse_equal_stems(paths: Iterable[str]) -> None:
    """Checks that files named after their images would not overwrite each other.

    Raises:
      ValueError: two images have the same stem.
    """
    stems: dict[str, str] = {}
    for path in paths:
        stem = stem_of(path)
        if stem in stems:
            raise ValueError(
                f'{stems[stem]} and {path} would both be written as {stem}.json: rename one, '
                f'predict them apart or write --shards'
            )
        stems[stem] = path


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
