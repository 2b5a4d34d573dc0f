"""Checkpoints handed on: pushed to a bucket or the Hugging Face Hub, and pulled from there.

What is pulled may be anybody's: names and sizes are checked before anything is fetched, the files
with their checksums before they get their final name.
"""

import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Protocol

from etils import epath

from pdl_jax.storage.checkpoint import (
    FOLDER,
    find_checkpoint,
    list_steps,
    make_absolute,
    read_description,
)
from pdl_jax.storage.checksums import list_files
from pdl_jax.storage.hub import Hub
from pdl_jax.storage.integrity import check_checkpoint
from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import (
    explain_bucket_errors,
    explain_write_errors,
    file_size,
    is_remote,
    make_path,
    refuse_address,
    write_whole,
)

CARD = 'README.md'
MAX_BYTES = 2**34
_MAX_FILES = 10_000
_MAX_DEPTH = 8
_MAX_CARD_BYTES = 2**20
_BLOCK_BYTES = 2**22
# Characters of the names that Orbax and this package give to files.
_PART = re.compile(r'[A-Za-z0-9_.+=,()\[\]-]{1,200}')
# Orbax takes a checkpoint in a bucket for complete when it has this file.
_MARK = 'commit_success.txt'
_MARK_OF_PUSH = b'pushed by pdl_jax\n'


class Remote(Protocol):
    """A place that keeps checkpoints."""

    def push(self, files: Mapping[str, pathlib.Path | bytes]) -> None:
        """Stores files by name so that readers find all of them or no checkpoint."""
        ...

    def list_files(self, step: int | str | None) -> dict[str, int]:
        """Lists the files of one checkpoint, and its card, with their sizes in bytes."""
        ...

    def fetch(self, name: str, target: pathlib.Path, size: int) -> None:
        """Copies a file of `size` bytes; raises if it has another size."""
        ...


class Bucket:
    """A folder in a bucket, laid out as a workdir: `find_checkpoint` reads it in place.

    Args:
      address: gs://BUCKET/PATH.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip('/')

    def push(self, files: Mapping[str, pathlib.Path | bytes]) -> None:
        """Stores files; see `Remote`.

        Raises:
          FileExistsError: there is a checkpoint already.
          OSError: the bucket fails.
        """
        root = make_path(self._address)
        (number,) = {name.split('/')[1] for name in files if name != CARD}
        folder = root / FOLDER / number
        with explain_bucket_errors(root):
            if list_steps(root / FOLDER):
                raise FileExistsError(
                    f'{root / FOLDER} holds checkpoints already: push to another path'
                )
            # A push that was cut short.
            if folder.exists():
                folder.rmtree()
            mark = f'{FOLDER}/{number}/{_MARK}'
            for name, content in files.items():
                if name != mark:
                    _store(root / name, content)
            _store(root / mark, files.get(mark, _MARK_OF_PUSH))

    def list_files(self, step: int | str | None) -> dict[str, int]:
        """Lists the files of one checkpoint; see `Remote`."""
        root = make_path(self._address)
        with explain_bucket_errors(root):
            checkpoint = find_checkpoint(root, step)
            sizes = {}
            for path in list_files(checkpoint):
                name = f'{FOLDER}/{checkpoint.name}/{path.relative_to(checkpoint)}'
                sizes[name] = file_size(path)
                if len(sizes) > _MAX_FILES:
                    break
            mark = f'{FOLDER}/{checkpoint.name}/{_MARK}'
            if sizes.get(mark) == len(_MARK_OF_PUSH):
                # It was not pushed but made by the push.
                if (checkpoint / _MARK).read_bytes() == _MARK_OF_PUSH:
                    del sizes[mark]
            if (root / CARD).exists():
                sizes[CARD] = file_size(root / CARD)
        return sizes

    def fetch(self, name: str, target: pathlib.Path, size: int) -> None:
        """Copies a file; see `Remote`."""
        path = make_absolute(f'{self._address}/{name}')
        with explain_bucket_errors(path), path.open('rb') as source, target.open('xb') as file:
            left = size
            while block := source.read(min(left + 1, _BLOCK_BYTES)):
                left -= len(block)
                if left < 0:
                    break
                file.write(block)
        if left:
            raise OSError(f'{path} changed while it was read: pull again')


def push(
    source: str,
    target: str,
    *,
    step: int | str | None = None,
    card: str = '',
    is_private: bool = False,
) -> str:
    """Copies one checkpoint, as it is, to a place from which others pull it.

    Args:
      source: a local workdir or one step of it, or a name of `list_shipped`.
      target: gs://BUCKET/PATH or hf://USER/NAME.
      step: see `find_checkpoint`.
      card: text of README.md; '' pushes none.
      is_private: whether a repository that the Hub has to make is for the user alone.

    Returns:
      The name of the step.

    Raises:
      FileExistsError: the path in the bucket holds a checkpoint already. On the Hub a new commit
        takes the place of the older one.
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint is damaged, or an address is not of these kinds.
      OSError: the target cannot be written.
    """
    remote = _open(target, is_private=is_private)
    if is_remote(source):
        raise ValueError(f'{source} is remote already: pull it first, and push the copy')
    checkpoint = find_checkpoint(source, step)
    if not checkpoint.name.isdecimal():
        raise ValueError(f'{checkpoint} must have the name that training gave it, its step')
    files: dict[str, pathlib.Path | bytes] = {}
    for path in list_files(checkpoint):
        refuse_irregular(path)
        name = f'{FOLDER}/{checkpoint.name}/{path.relative_to(checkpoint).as_posix()}'
        files[name] = pathlib.Path(path)
    if card:
        files[CARD] = card.encode()
    _check_names(files, os.fspath(checkpoint))
    remote.push(files)
    return checkpoint.name


def pull(
    source: str, directory: str, *, step: int | str | None = None, max_bytes: int = MAX_BYTES
) -> pathlib.Path:
    """Copies one checkpoint from a place where it was pushed.

    Args:
      source: gs://BUCKET/PATH, also the workdir of a run, or hf://USER/NAME[@REVISION].
      directory: the workdir to make.
      step: which of several checkpoints; by default the newest.
      max_bytes: more are refused before anything is fetched.

    Returns:
      The workdir.

    Raises:
      FileExistsError: `directory` is there already and not empty.
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint is damaged, too large, or of a later version, or has names that
        could leave the directory.
      OSError: it cannot be read or written.
    """
    remote = _open(source)
    refuse_address(directory)
    if is_remote(directory):
        raise ValueError(f'{directory} must be a local directory: push to a bucket')
    target = pathlib.Path(os.path.abspath(os.path.expanduser(directory)))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f'{target} is there already: choose another directory or delete it')
    sizes = remote.list_files(step)
    _check_names(sizes, source)
    _check_sizes(sizes, source, max_bytes)
    staging = target.parent / f'.{target.name[:100]}.{os.getpid()}.partial'
    try:
        with explain_write_errors(target):
            for name, size in sizes.items():
                path = staging / name
                path.parent.mkdir(parents=True, exist_ok=True)
                remote.fetch(name, path, size)
        _check_pulled(staging, source)
        with explain_write_errors(target):
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _open(address: str, *, is_private: bool = False) -> Remote:
    if address.startswith('hf://'):
        return Hub(address, is_private=is_private)
    if is_private:
        raise ValueError(f'only the Hub knows private repositories: {address} has other rules')
    refuse_address(address)
    if not is_remote(address):
        raise ValueError(
            f'{address} must begin with gs:// or hf://: copy local directories with cp'
        )
    return Bucket(address)


def _check_names(names: Mapping[str, object], source: str) -> None:
    """Checks that files of these names lie side by side below any folder, on any system."""
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split('/')
        is_safe = all(_PART.fullmatch(part) and part.strip('.') for part in parts)
        is_ours = name == CARD or (len(parts) > 2 and parts[0] == FOLDER and parts[1].isdecimal())
        if not is_safe or not is_ours or len(parts) > _MAX_DEPTH:
            raise ValueError(f'{source} has a file of the name {name[:200]!r}: no checkpoint does')
        if seen.setdefault(name.casefold(), name) != name:
            raise ValueError(f'{source}: the names of {name} and another file differ in case only')
    for name in names:
        for parent in pathlib.PurePosixPath(name).parents:
            if str(parent).casefold() in seen:
                raise ValueError(f'{source}: {parent} is both a file and a folder')


def _check_sizes(sizes: Mapping[str, int], source: str, max_bytes: int) -> None:
    if len(sizes) > _MAX_FILES:
        raise ValueError(f'{source} has more than {_MAX_FILES} files: no checkpoint does')
    if sizes.get(CARD, 0) > _MAX_CARD_BYTES:
        raise ValueError(
            f'{source}: {CARD} has {sizes[CARD]} bytes, the limit is {_MAX_CARD_BYTES}'
        )
    total = sum(sizes.values())
    if total > max_bytes:
        raise ValueError(
            f'{source} has {total} bytes, the limit is {max_bytes}: raise --max_gigabytes'
        )


def _check_pulled(staging: pathlib.Path, source: str) -> None:
    folders = sorted((staging / FOLDER).iterdir())
    try:
        for folder in folders:
            checkpoint = epath.Path(folder)
            check_checkpoint(checkpoint)
            read_description(checkpoint)
    except ValueError as error:
        raise ValueError(str(error).replace(os.fspath(staging), source)) from error


def _store(path: epath.Path, content: pathlib.Path | bytes) -> None:
    if isinstance(content, bytes):
        write_whole(path, content)
        return
    with content.open('rb') as source, path.open('wb') as file:
        shutil.copyfileobj(source, file, _BLOCK_BYTES)
