"""The trained networks that come with the package, by their names.

pdl_jax/storage/weights/NAME/    a workdir with one checkpoint, see `prediction.pack`
pdl_jax/storage/weights/NAME.md  its model card
"""

import os
import pathlib

_FOLDER = pathlib.Path(__file__).parent / 'weights'


def list_shipped() -> list[str]:
    """Lists the names of the networks."""
    return sorted(path.stem for path in _FOLDER.glob('*.md'))


def find_shipped(name: str | os.PathLike) -> pathlib.Path | None:
    """Finds the workdir of a network; None for any other path.

    A file or folder of that name in the working directory hides it.
    """
    is_shipped = os.fspath(name) in list_shipped() and not os.path.lexists(name)
    return _FOLDER / os.fspath(name) if is_shipped else None


def read_card(name: str) -> str:
    """Reads the model card of a network.

    Raises:
      FileNotFoundError: there is no network of that name.
    """
    return (_FOLDER / f'{name}.md').read_text(encoding='utf-8')
