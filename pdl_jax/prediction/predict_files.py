"""Image files in, the files of one result per image out."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence

import jax
import tqdm
from etils import epath

from pdl_jax.prediction.file_kinds import DEFAULT_KINDS, INSTANCE_KINDS, OUTPUT_KINDS
from pdl_jax.prediction.formats import PanopticWriter
from pdl_jax.prediction.image_list import name_results, stem_of
from pdl_jax.prediction.picture_style import DEFAULT_STYLE, PictureStyle
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.result_files import write_result
from pdl_jax.prediction.tiled import TileOptions, predict_tiles


def predict_file(
    predictor: Predictor,
    path: str,
    output: epath.Path,
    *,
    stem: str = '',
    kinds: Sequence[str] = DEFAULT_KINDS,
    style: PictureStyle = DEFAULT_STYLE,
) -> PanopticResult:
    """Predicts one image file and writes its results.

    Args:
      predictor: the network.
      path: the image, local or gs://.
      output: folder of the results.
      stem: name of the results without suffixes; by default the image's.
      kinds: the files to write, see `file_kinds.KINDS`.
      style: colours, contrast and size of pictures.

    Raises:
      ValueError: the file is no image, is truncated or too large; the message names it.
      OSError: the image cannot be read, or the results cannot be written.
    """
    keep_outputs = any(kind in OUTPUT_KINDS for kind in kinds)
    result = predictor(path, keep_outputs=keep_outputs)
    result = dataclasses.replace(result, style=style)
    write_result(result, output, stem or stem_of(path), kinds)
    return result


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    output: epath.Path,
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    style: PictureStyle = DEFAULT_STYLE,
    image_ids: Mapping[str, int | str] | None = None,
    tiles: TileOptions | None = None,
) -> list[str]:
    """Predicts image files one by one and prints how much of what is in each.

    Args:
      predictor: the network.
      paths: the images, local or gs://, each once.
      output: folder of the results, which are named as `name_results` says.
      kinds: the files to write per image.
      style: colours, contrast and size of pictures.
      image_ids: id of each image, to write predictions.json and predictions/ in the COCO panoptic
        format too; None writes neither.
      tiles: tiles in which to predict images, see `predict_tiles`; None predicts them as a whole.

    Returns:
      The reasons, one line per image that was not predicted.

    Raises:
      ValueError: the network has no outputs for a kind.
    """
    for kind in kinds:
        if kind == 'ponder' and not predictor.is_adaptive:
            raise ValueError(
                'this network spends the same on every pixel, so there is no ponder cost to draw: '
                'see config.model.adaptive_computation'
            )
        if kind in INSTANCE_KINDS and predictor.is_semantic:
            raise ValueError(
                f'a semantic network has no {kind}s to draw: choose other outputs than {kind}'
            )
    failures = []
    writer = None if image_ids is None else PanopticWriter(os.fspath(output), predictor.spec)
    stems = name_results(paths)
    for path, stem in tqdm.tqdm(stems.items(), unit='image', disable=not sys.stderr.isatty()):
        # One image that cannot be read does not stop the others.
        try:
            if tiles is not None:
                result = predict_tiles(
                    predictor, path, output, tiles, stem=stem, kinds=kinds, style=style
                )
            else:
                result = predict_file(predictor, path, output, stem=stem, kinds=kinds, style=style)
        except MemoryError:
            failures.append(f'{path}: does not fit into the memory: shrink or tile it')
            continue
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            text = str(error)
            # Most messages begin with the file.
            failures.append(text if text.startswith(path) else f'{path}: {text}')
            continue
        if writer is not None and image_ids is not None and isinstance(result, PanopticResult):
            writer.write(
                result.panoptic,
                image_id=image_ids[path],
                file_name=f'{stem}.png',
                scores={segment.label: segment.score for segment in result.segments},
            )
        # Names need not be UTF-8.
        name = os.fsencode(path).decode(errors='replace')
        tqdm.tqdm.write(f'{name}: {result.summary}')
    if writer is not None:
        writer.close()
    return failures
