"""A small panoptic scene for the tests of pictures."""

import numpy as np

from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(num_classes=4, thing_classes=(2, 3), ignore_label=255, label_divisor=1000)
NAMES = ('sky', 'grass', 'cow', 'dog')
COLORS = np.array([[70, 130, 180], [152, 251, 152], [220, 20, 60], [0, 0, 142]], np.uint8)
VOID = FORMAT.void_label


def make_scene():
    """Sky above grass, two cows, a crowd of dogs and a strip of void."""
    panoptic = np.full((240, 320), 0, np.int32)
    panoptic[120:] = 1000
    panoptic[60:180, 20:120] = 2001
    panoptic[60:180, 140:220] = 2002
    panoptic[100:200, 240:310] = 3000
    panoptic[230:] = VOID
    return panoptic
