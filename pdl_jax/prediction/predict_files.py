"""Image files in, one label map, one list of segments and one overlay per image out."""

import json
import os
import sys
from collections.abc import Sequence

import jax
import tqdm
from etils import epath

from pdl_jax.data.images import encode_image
from pdl_jax.prediction.image_files import read_image
from pdl_jax.prediction.image_list import stem_of
from pdl_jax.prediction.predictor import PanopticResult, Predictor
from pdl_jax.storage.paths import explain_bucket_errors, write_whole


def predict_file(predictor: Predictor, path: str, output: epath.Path) -> PanopticResult:
    """Predicts one image file and writes its three results.

    The picture is turned upright first if its EXIF data say so, as viewers do.

    Raises:
      ValueError: the file is no image, is truncated or too large; the message names it.
      OSError: the image cannot be read, or the results cannot be written.
    """
    image = read_image(path, predictor.pixels)
    result = predictor(image)
    stem = stem_of(path)
    height, width = image.shape[:2]
    description = {'file_name': os.path.basename(path), 'height': height, 'width': width}
    kind = 'semantic' if result.is_semantic else 'panoptic'
    with explain_bucket_errors(output):
        (output / f'{stem}_{kind}.png').write_bytes(result.to_png())
        (output / f'{stem}_overlay.png').write_bytes(encode_image(result.draw_overlay(image)))
    # Last, so that the JSON's presence means that the image is done.
    segments = {**description, 'segments': result.to_json()}
    write_whole(output / f'{stem}.json', json.dumps(segments, indent=1).encode())
    return result


def predict_files(predictor: Predictor, paths: Sequence[str], output: epath.Path) -> list[str]:
    """Predicts image files one by one and prints what is in each.

    Returns:
      What went wrong, one line per image that was not predicted.
    """
    failures = []
    for path in tqdm.tqdm(paths, unit='image', disable=not sys.stderr.isatty()):
        # One image that cannot be read does not stop the others.
        try:
            result = predict_file(predictor, path, output)
        except MemoryError:
            failures.append(f'{path}: does not fit into the memory: shrink or tile it')
            continue
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            failures.append(f'{path}: {error}')
            continue
        # Names need not be UTF-8.
        name = os.fsencode(path).decode(errors='replace')
        if result.is_semantic:
            tqdm.tqdm.write(f'{name}: {", ".join(s.class_name for s in result.segments)}')
            continue
        things = ', '.join(f'{s.class_name} {s.score:.2f}' for s in result.segments if s.is_thing)
        tqdm.tqdm.write(f'{name}: {len(result.segments)} segments; {things or "no things"}')
    return failures
