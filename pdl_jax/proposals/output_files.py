"""Files that a frame's proposals are written to: JSON and pictures."""

import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from pdl_jax.data.images import encode_image
from pdl_jax.proposals.candidates import Candidates
from pdl_jax.proposals.drawing import (
    LABEL_COLOR,
    DrawnBox,
    class_color,
    draw_boxes,
    draw_top_view,
)
from pdl_jax.proposals.frames import Frame
from pdl_jax.proposals.kitti_label import ObjectLabel, stack_boxes
from pdl_jax.proposals.options import GridOptions
from pdl_jax.proposals.overlap import box_corners
from pdl_jax.proposals.proposer import Scene
from pdl_jax.storage.paths import write_whole

_BOX_FIELDS = ('x', 'y', 'z', 'length', 'height', 'width', 'rotation_y')
_DECIMALS = 4


def write_proposals(
    folder: epath.Path, frame: Frame, scene: Scene, proposals: Mapping[str, Candidates]
) -> None:
    """Writes FOLDER/NAME.json.

    Args:
      folder: it exists.
      frame: the frame.
      scene: its road.
      proposals: by class, the best first.

    Raises:
      OSError: the file cannot be written.
    """
    height, width = frame.image.shape[:2]
    road = scene.road
    content = {
        'frame': frame.name,
        'image': {'height': height, 'width': width},
        'road': {
            'is_found': bool(road.is_found),
            'camera_height_m': _round(road.height_m),
            'normal': [_round(value) for value in np.asarray(road.rotation)[1]],
        },
        'proposals': [row for kind, best in proposals.items() for row in _list_rows(kind, best)],
    }
    write_whole(folder / f'{frame.name}.json', f'{json.dumps(content)}\n'.encode())


def write_pictures(
    folder: epath.Path,
    frame: Frame,
    proposals: Mapping[str, Candidates],
    labels: list[ObjectLabel],
    *,
    num_drawn: int,
    options: GridOptions,
) -> None:
    """Writes FOLDER/NAME_boxes.png and FOLDER/NAME_top.png.

    Args:
      folder: it exists.
      frame: the frame.
      proposals: by class, the best first.
      labels: objects, drawn in white; empty for none.
      num_drawn: proposals of each class that are drawn.
      options: the grid, which is what the view from above shows.

    Raises:
      OSError: a file cannot be written.
    """
    boxes = []
    for index, (kind, best) in enumerate(proposals.items()):
        count = min(num_drawn, int(np.sum(best.valid)))
        corners = np.asarray(box_corners(best.boxes[:count]))
        boxes += [
            DrawnBox(one, class_color(index), f'{kind} {rank}')
            for rank, one in enumerate(corners, start=1)
        ]
    known = [label for label in labels if label.kind != 'DontCare']
    corners = np.asarray(box_corners(jnp.asarray(stack_boxes(known))))
    boxes += [DrawnBox(one, LABEL_COLOR) for one in corners]
    picture = draw_boxes(frame.image, boxes, np.asarray(frame.projection))
    points = np.asarray(frame.points)[np.asarray(frame.valid)]
    top = draw_top_view(points, boxes, x_m=options.x_m, z_m=options.z_m)
    for name, pixels in (('boxes', picture), ('top', top)):
        write_whole(folder / f'{frame.name}_{name}.png', encode_image(pixels))


def _list_rows(kind: str, best: Candidates) -> list[dict[str, Any]]:
    """Lists the proposals of a class as JSON values."""
    count = int(np.sum(best.valid))
    arrays = (np.asarray(x)[:count] for x in (best.boxes, best.image_boxes, best.scores))
    rows = []
    for box, image_box, score in zip(*arrays, strict=True):
        y0, x0, y1, x1 = (_round(value) for value in image_box)
        rows.append(
            {
                'class': kind,
                'score': _round(score),
                'box': dict(zip(_BOX_FIELDS, map(_round, box), strict=True)),
                'image_box': {'y0': y0, 'x0': x0, 'y1': y1, 'x1': x1},
            }
        )
    return rows


def _round(value: Any) -> float:
    return round(float(value), _DECIMALS)
