"""Inputs of the cases, drawn once with NumPy; both sides read the same files."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

HEADS = ('semantic', 'center', 'offset')
# Post-processing options of both sides: those of bowenc0221, equal to detectron2's for Cityscapes.
IGNORE_LABEL = 255
LABEL_DIVISOR = 1000
NMS_KERNEL_PX = 7
STUFF_AREA_PX = 2048
TOP_K = 200
THRESHOLD = 0.1
HARDEST_FRACTION = 0.2
# Weight of a network's outputs where a scene replaces them: nonzero, so that they are computed.
BLEND = 1e-6

_THING_CLASSES = {19: tuple(range(11, 19)), 133: tuple(range(80))}
_NUM_BANDS = 12
_PEAK_DEVIATION_PX = 4.0


def list_thing_classes(num_classes: int) -> tuple[int, ...]:
    """Lists the things of Cityscapes or COCO by number of classes, else the second half."""
    return _THING_CLASSES.get(num_classes, tuple(range(num_classes // 2, num_classes)))


def write_inputs(arguments: Mapping[str, Any], folder: pathlib.Path) -> dict[str, str]:
    """Draws and writes the arrays that a case needs.

    Args:
      arguments: arguments of the case. 'inputs' lists some of 'image', 'scene', 'stride4_scene',
        'targets', 'label_maps' and 'operands'. These depend on 'size', 'batch', 'num_classes' and
        'num_centers', operands on the arguments of the suite ops.
      folder: existing folder to write to.

    Returns:
      Paths of .npy files by name of the array.
    """
    kinds = arguments.get('inputs', ())
    arrays = {}
    if 'image' in kinds:
        arrays['image'] = draw_image(arguments['size'], arguments['batch'])
    if 'scene' in kinds:
        arrays.update(draw_maps(arguments, arguments['size']))
    if 'stride4_scene' in kinds:
        arrays.update(draw_maps(arguments, tuple((n - 1) // 4 + 1 for n in arguments['size'])))
    if 'targets' in kinds:
        arrays.update(draw_targets(arguments['size'], arguments['num_classes'], arguments['batch']))
    if 'label_maps' in kinds:
        arrays.update(draw_label_maps(arguments))
    if 'operands' in kinds:
        arrays.update(draw_operands(arguments))
    files = {}
    for name, array in arrays.items():
        files[name] = str(folder / f'{name}.npy')
        np.save(files[name], array)
    return files


def draw_image(size: tuple[int, int], batch: int) -> np.ndarray:
    """Draws pixels f32[batch, H, W, 3]: coarse blocks and a little noise, as smooth as photographs.

    Pixels are normalised, as the network takes them.
    """
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((batch, 9, 9, 3), np.float32)
    rows, columns = (np.arange(n) * 9 // n for n in size)
    return coarse[:, rows][:, :, columns] + 0.3 * rng.standard_normal((batch, *size, 3), np.float32)


def draw_scene(
    size: tuple[int, int], num_classes: int, num_centers: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draws horizontal bands of stuff with disks of things in front of them.

    Returns:
      'semantic': i32[H, W].
      'center': f32[H, W], one peak per object, all of different heights.
      'offset': f32[H, W, 2], (dy, dx) in pixels to the centre of the object, plus noise.
      'instance': i32[H, W], number of the object, 0 on stuff.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    things = list_thing_classes(num_classes)
    stuff = [c for c in range(num_classes) if c not in things]
    bands = rng.choice(stuff, _NUM_BANDS)
    semantic = np.repeat(bands[np.arange(height) * _NUM_BANDS // height][:, None], width, 1).astype(
        np.int32
    )

    # Each object gets a cell of a grid, so that peaks stay apart.
    rows = max(1, round(np.sqrt(num_centers * height / width)))
    columns = -(-num_centers // rows)
    cell_height, cell_width = height // rows, width // columns
    cells = rng.permutation(rows * columns)[:num_centers]
    center = np.zeros(size, np.float32)
    offset = rng.normal(0, 1, (height, width, 2)).astype(np.float32)
    instance = np.zeros(size, np.int32)
    radius = max(1, min(cell_height, cell_width) // 2 - 1)
    for number, cell in enumerate(cells, 1):
        y = int(
            cell // columns * cell_height
            + cell_height // 2
            + rng.integers(-radius // 4, radius // 4 + 1)
        )
        x = int(
            cell % columns * cell_width
            + cell_width // 2
            + rng.integers(-radius // 4, radius // 4 + 1)
        )
        window = tuple(
            slice(max(n - radius, 0), min(n + radius + 1, limit))
            for n, limit in zip((y, x), size, strict=True)
        )
        dy, dx = np.meshgrid(
            *(n - np.arange(s.start, s.stop) for n, s in zip((y, x), window, strict=True)),
            indexing='ij',
        )
        is_inside = dy**2 + dx**2 <= radius**2
        semantic[window] = np.where(is_inside, rng.choice(things), semantic[window])
        instance[window] = np.where(is_inside, number, instance[window])
        offset[window] += np.where(is_inside[..., None], np.stack([dy, dx], -1), 0)
        heat = rng.uniform(0.5, 1) * np.exp(-(dy**2 + dx**2) / (2 * _PEAK_DEVIATION_PX**2))
        center[window] = np.maximum(center[window], heat)
    return {'semantic': semantic, 'center': center, 'offset': offset, 'instance': instance}


def draw_maps(arguments: Mapping[str, Any], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Draws 'labels' i32[B, h, w] of a scene and matching network outputs f32[B, h, w, ...]."""
    scene = draw_scene(size, arguments['num_classes'], arguments['num_centers'])
    logits = np.random.default_rng(1).standard_normal((*size, arguments['num_classes']), np.float32)
    # The margin is so large that no noise exceeds it.
    np.put_along_axis(logits, scene['semantic'][..., None], 9, -1)
    maps = {
        'labels': scene['semantic'],
        'semantic': logits,
        'center': scene['center'][..., None],
        'offset': scene['offset'],
    }
    return {name: np.repeat(x[None], arguments['batch'], 0) for name, x in maps.items()}


def draw_targets(size: tuple[int, int], num_classes: int, batch: int) -> dict[str, np.ndarray]:
    """Draws training targets of a batch; keys are 'target_' + key of `targets.make_targets`."""
    targets = []
    for i in range(batch):
        scene = draw_scene(size, num_classes, 10, seed=i)
        is_thing = scene['instance'] > 0
        targets.append(
            {
                'semantic': scene['semantic'],
                'center': scene['center'],
                'offset': np.where(is_thing[..., None], scene['offset'], 0),
                'semantic_weight': np.where(is_thing, 3, 1).astype(np.float32),
                'center_weight': np.ones(size, np.float32),
                'offset_weight': is_thing.astype(np.float32),
            }
        )
    return {f'target_{key}': np.stack([target[key] for target in targets]) for key in targets[0]}


def draw_label_maps(arguments: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Draws 'label' and 'prediction', the label slightly shifted.

    Both are i32[H, W] with values of class * LABEL_DIVISOR + instance.
    """
    scene = draw_scene(arguments['size'], arguments['num_classes'], arguments['num_centers'], seed)
    label = scene['semantic'] * LABEL_DIVISOR + scene['instance']
    prediction = np.roll(label, (3, 5), (0, 1))
    # Some objects are missing in the prediction, some pixels have no label.
    prediction = np.where(
        prediction % LABEL_DIVISOR % 7 == 1, IGNORE_LABEL * LABEL_DIVISOR, prediction
    )
    label[:5] = IGNORE_LABEL * LABEL_DIVISOR
    return {'label': label, 'prediction': prediction}


def draw_operands(arguments: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Draws 'x' f32[1, H, W, C], the 'kernel' of convolutions and the result's 'cotangent'."""
    rng = np.random.default_rng(0)
    operation, size = arguments['operation'], arguments['size']
    if operation == 'hardest_pixels':
        # Losses of pixels: most are small, none is zero.
        return {
            'x': rng.exponential(1, (1, *size)).astype(np.float32) + 1e-6,
            'cotangent': np.ones((), np.float32),
        }
    arrays = {'x': rng.standard_normal((1, *size, arguments['channels']), np.float32)}
    if 'kernel' in arguments:
        shape = (arguments['kernel'],) * 2 + (
            (1,) if operation == 'depthwise' else (arguments['channels'],)
        )
        kernel = rng.standard_normal((*shape, arguments['features']), np.float32)
        arrays['kernel'] = kernel / np.sqrt(np.prod(shape), dtype=np.float32)
    arrays['cotangent'] = rng.standard_normal(
        (1, *find_result_size(arguments), arguments['features']), np.float32
    )
    return arrays


def find_result_size(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Computes (height, width) of an operation's result with padding of half the kernel."""
    if 'factor' in arguments:
        return tuple((n - 1) * arguments['factor'] + 1 for n in arguments['size'])
    return tuple((n - 1) // arguments['stride'] + 1 for n in arguments['size'])


def count_operation_flops(arguments: Mapping[str, Any]) -> float | None:
    """Counts two flops per multiply-add of a convolution, three times as many with both gradients.

    Returns:
      Flops; None for operations other than convolutions.
    """
    if 'kernel' not in arguments:
        return None
    inputs = 1 if arguments['operation'] == 'depthwise' else arguments['channels']
    products = (
        np.prod(find_result_size(arguments))
        * arguments['kernel'] ** 2
        * inputs
        * arguments['features']
    )
    return float(2 * products * (3 if arguments['has_gradient'] else 1))
