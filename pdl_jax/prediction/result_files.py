"""The files of one result in a folder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from pdl_jax.prediction.file_kinds import KINDS, check_kinds, name_file
from pdl_jax.storage.paths import explain_bucket_errors, write_whole

if TYPE_CHECKING:
    from pdl_jax.prediction.result import PanopticResult


def write_result(
    result: 'PanopticResult', folder: epath.Path, stem: str, kinds: Sequence[str]
) -> list[epath.Path]:
    """Writes the files of a result into a folder, see `PanopticResult.save`."""
    check_kinds(kinds)
    written = []
    with explain_bucket_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The JSON comes last, so that its presence means that the image is done.
    for kind in sorted(kinds, key=KINDS.index):
        path = folder / name_file(stem, kind, is_semantic=result.is_semantic)
        write_whole(path, result.encode(kind))
        written.append(path)
    return written
