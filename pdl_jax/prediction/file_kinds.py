"""Kinds of files that a result can be written as."""

from collections.abc import Sequence

from pdl_jax.typing import suggest

# The end of their names by kind.
_ENDINGS = {
    'overlay': '_overlay.png',
    'ids': '_panoptic.png',
    'color': '_color.png',
    'panel': '_panel.png',
    'html': '.html',
    'center': '_center.png',
    'offset': '_offset.png',
    'ponder': '_ponder.png',
    'csv': '.csv',
    'json': '.json',
}
KINDS = tuple(_ENDINGS)
# Kinds that show what the network computed, see `PanopticResult.outputs`.
INSTANCE_KINDS = ('center', 'offset')
OUTPUT_KINDS = (*INSTANCE_KINDS, 'ponder')
DEFAULT_KINDS = ('overlay', 'ids', 'json')
# Kinds by the suffix of a single file.
SUFFIXES = {'.png': 'overlay', '.html': 'html', '.csv': 'csv', '.json': 'json'}


def check_kinds(kinds: Sequence[str]) -> None:
    """Checks kinds of files.

    Raises:
      ValueError: names the first unknown one.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(
                f'there is no output {kind!r}; {suggest(kind, KINDS)}choose among '
                f'{", ".join(KINDS)}'
            )


def name_file(stem: str, kind: str, *, is_semantic: bool = False, is_tiled: bool = False) -> str:
    """Returns the name of the file of a kind; `is_tiled` if the image is predicted in tiles."""
    if kind == 'ids' and is_tiled:
        return f'{stem}_panoptic.tif'
    if kind == 'ids' and is_semantic:
        return f'{stem}_semantic.png'
    return f'{stem}{_ENDINGS[kind]}'
