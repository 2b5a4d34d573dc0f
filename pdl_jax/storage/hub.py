"""Repositories of the Hugging Face Hub as a place of checkpoints."""

import contextlib
import hashlib
import importlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from pdl_jax.storage.checkpoint import FOLDER

_CARD = 'README.md'
_ADDRESS = re.compile(r'hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?', re.ASCII)
# More entries belong to no checkpoint, and a listing may have any number.
_MAX_ENTRIES = 100_000
_BLOCK_BYTES = 2**22


class Hub:
    """A repository of models.

    The token is that of `hf auth login` or of the variable HF_TOKEN.

    Args:
      address: hf://USER/NAME[@REVISION].
      is_private: whether a repository that `push` makes is for the user alone.

    Raises:
      ValueError: the address has another form.
      ImportError: huggingface_hub is not installed.
    """

    def __init__(self, address: str, *, is_private: bool = False) -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ValueError(
                f'{address} must have the form hf://USER/NAME or hf://USER/NAME@REVISION'
            )
        self._address = address
        self._is_private = is_private
        self._name, self._revision = match[1], match[2]
        self._library = _import_library()
        self._api = self._library.HfApi(library_name='pdl_jax')
        # Hashes of the files of the listing: (whether of the content alone, digest).
        self._hashes: dict[str, tuple[bool, str]] = {}

    def push(self, files: Mapping[str, pathlib.Path | bytes]) -> None:
        """Commits files in the place of an older checkpoint; makes the repository if need be.

        Raises:
          OSError: the Hub refuses, or cannot be reached.
        """
        hub = self._library
        with self._explained():
            if self._revision is None:
                self._api.create_repo(self._name, private=self._is_private or None, exist_ok=True)
            old = [e.path for e in self._list(self._revision) if e.path.startswith(f'{FOLDER}/')]
            changes = [hub.CommitOperationDelete(name) for name in old if name not in files]
            for name, content in files.items():
                value = content if isinstance(content, bytes) else os.fspath(content)
                changes.append(hub.CommitOperationAdd(name, value))
            # One commit: a reader sees all of it, or what was there before.
            self._api.create_commit(
                self._name,
                changes,
                commit_message='Checkpoint of pdl_jax',
                revision=self._revision,
            )
            kept = {entry.path for entry in self._list(self._revision)}
            if lost := sorted(set(files) - kept):
                raise ValueError(
                    f'{self._address} ignores {lost[0]}: look into its .gitignore, and push again'
                )

    def list_files(self, step: int | str | None) -> dict[str, int]:
        """Lists the files of one checkpoint and the card of one revision, which is kept to.

        Raises:
          FileNotFoundError: there is no such repository or checkpoint.
          OSError: the Hub cannot be reached.
        """
        with self._explained():
            info = self._api.model_info(self._name, revision=self._revision)
            self._revision = info.sha
            entries = {entry.path: entry for entry in self._list(info.sha)}
        found = (re.match(rf'{FOLDER}/(\d{{1,18}})/', name, re.ASCII) for name in entries)
        steps = sorted({int(match[1]) for match in found if match})
        if not steps:
            raise FileNotFoundError(f'{self._address} has no checkpoint of pdl_jax')
        if step == 'best':
            raise ValueError(f'--step=best is for workdirs: {self._address} has the steps {steps}')
        number = steps[-1] if step in (None, 'last') else step
        if number not in steps:
            raise FileNotFoundError(f'{self._address} has no step {number}: it has {steps}')
        chosen = [
            entry
            for name, entry in entries.items()
            if name.startswith(f'{FOLDER}/{number}/') or name == _CARD
        ]
        self._hashes = {
            entry.path: (True, entry.lfs.sha256) if entry.lfs else (False, entry.blob_id)
            for entry in chosen
        }
        return {entry.path: entry.size for entry in chosen}

    def fetch(self, name: str, target: pathlib.Path, size: int) -> None:
        """Downloads a file of the listing.

        Raises:
          ValueError: it has another content than the listing says.
          OSError: it cannot be read or written.
        """
        cache = target.parent / '.hub'
        with self._explained():
            # As a file of its own: the library's cache is made of links.
            path = self._api.hf_hub_download(
                self._name, name, revision=self._revision, local_dir=cache
            )
        # Nothing in a new folder of ours is a link.
        os.replace(path, target)
        shutil.rmtree(cache)
        if target.stat().st_size != size:
            raise ValueError(
                f'{self._address}: {name} has {target.stat().st_size} bytes, not {size}: pull again'
            )
        is_plain, digest = self._hashes[name]
        if _compute_hash(target, is_plain=is_plain) != digest:
            raise ValueError(f'{self._address}: {name} holds other bytes than were pushed')

    def _list(self, revision: str | None) -> list[Any]:
        """Lists the files of a revision."""
        entries = []
        for entry in self._api.list_repo_tree(self._name, recursive=True, revision=revision):
            if isinstance(entry, self._library.hf_api.RepoFile):
                entries.append(entry)
            if len(entries) > _MAX_ENTRIES:
                raise ValueError(f'{self._address} has more than {_MAX_ENTRIES} files')
        return entries

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Words the errors of the library in one line, which never holds the token."""
        try:
            yield
        except Exception as error:
            # Ours; the library's have types of their own.
            if type(error) is ValueError:
                raise
            response = getattr(error, 'response', None)
            status = getattr(response, 'status_code', None)
            if status in (401, 403) or type(error).__name__ == 'LocalTokenNotFoundError':
                raise OSError(
                    f'{self._address}: the Hub refuses: check the name, and log in with '
                    f'`hf auth login` or set HF_TOKEN'
                ) from None
            if status == 404:
                raise FileNotFoundError(
                    f'{self._address}: there is none, or it is private: check the name, and log in '
                    f'with `hf auth login`'
                ) from None
            lines = str(error).strip().splitlines() or ['']
            text = f'{self._address}: the Hub answers {type(error).__name__}: {lines[0]}'
            token = self._library.get_token()
            raise OSError(text.replace(token, '***') if token else text) from None


def _import_library() -> Any:
    # Errors and bars of others would bury ours.
    os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
    try:
        importlib.import_module('huggingface_hub.hf_api')
        return importlib.import_module('huggingface_hub')
    except ImportError as error:
        raise ImportError(
            "hf:// needs huggingface_hub: pip install 'pdl_jax[hub]', or huggingface_hub"
        ) from error


def _compute_hash(path: pathlib.Path, *, is_plain: bool) -> str:
    """Computes SHA-256 of a large file, or what git calls a blob's name of a small one."""
    digest = hashlib.sha256() if is_plain else hashlib.sha1(b'blob %d\0' % path.stat().st_size)
    with path.open('rb') as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
