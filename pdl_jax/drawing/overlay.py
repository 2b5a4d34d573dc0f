"""Pictures for people: label maps in colour, overlays with names, heatmaps, offsets."""

import colorsys
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pdl_jax.typing import LabelFormat

_CROWD_STRIPE_PX = 4
# Segments below this share of the picture get no name: it would cover them.
_MIN_NAMED_SHARE = 0.001
# Names are wider than high, so a pixel of room above or below counts as so many beside.
_VERTICAL_COST = 2.5
# A name may move aside for others until it has less than this part of the room at its best place.
_MIN_ROOM_SHARE = 0.4
_HEAT_STOPS = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32
)
_GAP_PX = 4
# (saturation, value) of invented class colours.
_TONES = ((0.75, 0.95), (0.5, 0.7), (0.9, 0.55), (0.4, 1.0), (1.0, 0.8))


def class_palette(num: int) -> np.ndarray:
    """Makes colours for classes that have none: the same ones every time, neighbours far apart.

    Args:
      num: number of classes.

    Returns:
      u8[num, 3].
    """
    # Golden-ratio steps spread the hues however many there are. They nearly return after 13, 21 and
    # 34 classes, where a cycle of five tones differs.
    rgb = [colorsys.hsv_to_rgb(i * 0.618034 % 1, *_TONES[i % 5]) for i in range(num)]
    return np.round(255 * np.reshape(rgb, (num, 3))).astype(np.uint8)


def color_semantic(semantic: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Colours a class map.

    Args:
      semantic: i32[H, W], classes; values that have no colour, such as void, become black.
      colors: u8[N, 3], by semantic value.

    Returns:
      u8[H, W, 3].
    """
    _check_map('semantic', semantic)
    table = np.concatenate([np.asarray(colors, np.uint8), np.zeros((1, 3), np.uint8)])
    return table[np.minimum(semantic, len(colors))]


def color_panoptic(
    panoptic: np.ndarray, label_format: LabelFormat, colors: np.ndarray
) -> np.ndarray:
    """Colours a panoptic map; void is black and crowds are striped.

    Stuff has the colour of its class, an object a shade of it that depends on its label alone.

    Args:
      panoptic: i32[H, W].
      label_format: how classes and instances are coded.
      colors: u8[N, 3], by semantic value.

    Returns:
      u8[H, W, 3].
    """
    labels, index, _ = _index_labels(panoptic)
    table = np.zeros((len(labels), 3), np.uint8)
    is_crowd = np.zeros(len(labels), bool)
    for row, label in enumerate(labels.tolist()):
        semantic, instance = divmod(label, label_format.label_divisor)
        if semantic == label_format.ignore_label or semantic >= len(colors):
            continue
        table[row] = _shade(colors[semantic], instance) if instance else colors[semantic]
        is_crowd[row] = semantic in label_format.thing_classes and instance == 0
    picture = table[index]
    if is_crowd.any():
        rows, columns = np.ogrid[: index.shape[0], : index.shape[1]]
        stripes = (rows + columns) // _CROWD_STRIPE_PX % 2 == 0
        striped = is_crowd[index] & stripes
        picture[striped] = 255 - (255 - picture[striped]) // 3
    return picture


def overlay_panoptic(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_format: LabelFormat,
    *,
    class_names: Sequence[str],
    colors: np.ndarray,
    alpha: float = 0.5,
    scores: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Lays the segments over an image, outlined and named.

    Args:
      image: u8[H, W, 3].
      panoptic: i32[H, W].
      label_format: how classes and instances are coded.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
      alpha: share of the colour in the mix, in [0, 1]; void shows the image as it is.
      scores: confidence in [0, 1] of labels, written behind the names of single objects.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: the image is not u8[H, W, 3] of the size of `panoptic`.
    """
    if image.dtype != np.uint8 or image.shape != (*panoptic.shape, 3):
        raise ValueError(
            f'image must be uint8 of shape {(*panoptic.shape, 3)} to lie under its panoptic map, '
            f'not {image.dtype}{image.shape}'
        )
    labels, index, areas = _index_labels(panoptic)
    color = color_panoptic(panoptic, label_format, colors)
    is_void = labels // label_format.label_divisor == label_format.ignore_label
    share = np.where(is_void, 0, round(256 * alpha)).astype(np.uint16)[index][..., None]
    picture = ((image * (256 - share) + color * share) >> 8).astype(np.uint8)
    border = _find_borders(index, max(1, round(min(image.shape[:2]) / 400)))
    # Towards white by three quarters: seen on dark and bright segments, yet not harsh.
    picture[border] = 255 - (255 - picture[border]) // 4
    captions = []
    for i in np.argsort(-areas, kind='stable'):
        semantic, instance = divmod(int(labels[i]), label_format.label_divisor)
        if areas[i] < _MIN_NAMED_SHARE * panoptic.size:
            break
        if is_void[i] or semantic >= len(class_names):
            continue
        # COCO marks its joined stuff classes by suffixes that only take room here.
        text = class_names[semantic].replace('-merged', '').replace('-other', '')
        if semantic in label_format.thing_classes:
            if instance == 0:
                text = f'{text} (crowd)'
            elif scores and int(labels[i]) in scores:
                text = f'{text} {scores[int(labels[i])]:.0%}'
        captions.append((int(i), text))
    return _write_names(picture, captions, index, areas, _measure_room(border))


def heatmap_picture(heatmap: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Colours a map from black over red to yellow.

    Args:
      heatmap: f32[H, W] in [0, 1]; values beyond are cut off, NaN is 0.
      image: u8[H, W, 3] to show in grey where the heat is low.

    Returns:
      u8[H, W, 3].
    """
    heat = np.clip(np.nan_to_num(np.asarray(heatmap, np.float32), nan=0.0), 0, 1)
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    picture = np.stack([np.interp(heat, stops, channel) for channel in _HEAT_STOPS.T], axis=-1)
    if image is not None:
        # The square root keeps the faint rims of the heat visible on a bright image.
        share = np.sqrt(heat)[..., None]
        picture = share * picture + (1 - share) * 0.6 * image.mean(axis=-1, keepdims=True)
    return np.round(picture).astype(np.uint8)


def offset_picture(offset: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Colours offsets as on a wheel: the hue is the direction, the saturation the length.

    Right is red, down yellow-green, left cyan, up violet; white is no offset. The longest one
    percent is cut off.

    Args:
      offset: f32[H, W, 2], (dy, dx) in pixels.
      mask: bool[H, W]; black where it is false.

    Returns:
      u8[H, W, 3].
    """
    dy, dx = np.moveaxis(
        np.nan_to_num(np.asarray(offset, np.float32), posinf=1e6, neginf=-1e6), -1, 0
    )
    length = np.hypot(dy, dx)
    inside = np.ones(length.shape, bool) if mask is None else np.asarray(mask, bool)
    longest = np.percentile(length[inside], 99) if inside.any() else 1.0
    saturation = np.clip(length / max(longest, 1e-6), 0, 1)[..., None]
    hue = np.arctan2(dy, dx)[..., None] * (3 / np.pi)
    # The hexagon of HSV: each primary is full within one sixth of its hue, none beyond two sixths.
    distance = np.abs((hue - np.array([0, 2, 4], np.float32) + 3) % 6 - 3)
    wheel = np.clip(2 - distance, 0, 1)
    picture = 255 * (1 - saturation * (1 - wheel)) * inside[..., None]
    return np.round(picture).astype(np.uint8)


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[str]] | None = None
) -> np.ndarray:
    """Lays pictures out in rows on white.

    Args:
      rows: u8[h, w, 3] pictures, of any size.
      titles: a line above each picture, in the same order.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: there is no picture, or the titles do not match the pictures.
    """
    if not rows or not all(rows):
        raise ValueError(f'each row needs a picture, got rows of {list(map(len, rows))}')
    if titles is not None and list(map(len, titles)) != list(map(len, rows)):
        raise ValueError(f'{titles} are not the titles of {list(map(len, rows))} pictures a row')
    font_px = round(np.clip(rows[0][0].shape[1] / 20, 10, 24))
    title_px = 0 if titles is None else round(1.5 * font_px)
    num_columns = max(len(row) for row in rows)
    widths = [max(row[j].shape[1] for row in rows if j < len(row)) for j in range(num_columns)]
    heights = [title_px + max(picture.shape[0] for picture in row) for row in rows]
    size = [sum(sides) + _GAP_PX * (len(sides) - 1) for sides in (heights, widths)]
    canvas = Image.new('RGB', size[::-1], 'white')
    draw = ImageDraw.Draw(canvas)
    y = 0
    for i, row in enumerate(rows):
        x = 0
        for j, picture in enumerate(row):
            if titles is not None:
                middle = (x + 2, y + title_px // 2)
                draw.text(middle, titles[i][j], 'black', _load_font(font_px), anchor='lm')
            canvas.paste(Image.fromarray(picture), (x, y + title_px))
            x += widths[j] + _GAP_PX
        y += heights[i] + _GAP_PX
    return np.asarray(canvas)


def training_pictures(
    image: np.ndarray,
    target: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    *,
    label_format: LabelFormat,
    colors: np.ndarray,
    max_side_px: int = 512,
) -> dict[str, np.ndarray]:
    """Draws what the network was asked for, and what it answered, for one sample.

    Args:
      image: u8[H, W, 3].
      target: 'semantic' i32[H, W], 'center' f32[H, W], 'offset' f32[H, W, 2], and the weights
        'semantic_weight', 'center_weight', 'offset_weight', each f32[H, W].
      prediction: 'semantic', 'center' and 'offset' like the target's, and 'panoptic' i32[H, W];
        of a semantic network 'semantic' alone, and no other targets are drawn than it learns.
      label_format: how classes and instances are coded.
      colors: u8[N, 3], by semantic value.
      max_side_px: pictures with a longer side are shrunk to it, since event files keep all of them.

    Returns:
      u8 pictures 'target' and 'prediction', each a row with titles.
    """
    weight = target['semantic_weight'] * (target['semantic'] != label_format.ignore_label)
    highest = max(weight.max(), 1e-6)
    wanted = {'image': image, 'semantic': color_semantic(target['semantic'], colors)}
    answer = {'semantic': color_semantic(prediction['semantic'], colors)}
    if 'center' in prediction:
        is_object = np.asarray(target['offset_weight']) > 0
        center = heatmap_picture(target['center'], image)
        center[np.asarray(target['center_weight']) <= 0] //= 3
        wanted['center (dark: no loss)'] = center
        wanted['offset'] = offset_picture(target['offset'], is_object)
        heat = prediction['center']
        answer = {
            'panoptic': color_panoptic(prediction['panoptic'], label_format, colors),
            **answer,
            f'center, up to {np.max(heat):.2f}': heatmap_picture(heat, image),
            'offset': offset_picture(prediction['offset']),
            'offset at target objects': offset_picture(prediction['offset'], is_object),
        }
    wanted[f'semantic weight / {highest:.3g}'] = heatmap_picture(weight / highest)
    return {
        name: picture_grid([[_shrink(p, max_side_px) for p in row.values()]], [list(row)])
        for name, row in (('target', wanted), ('prediction', answer))
    }


def _check_map(name, labels):
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'{name} must be a non-empty integer [H, W], not {labels.dtype}{labels.shape}'
        )
    if labels.min() < 0:
        raise ValueError(f'{name} holds {labels.min()}: labels are not negative')


def _index_labels(panoptic):
    """The labels that occur, ascending; i32[H, W] of their rows; their areas in pixels."""
    _check_map('panoptic', panoptic)
    # Counting is ten times as fast as the sort in np.unique.
    counts = np.bincount(panoptic.ravel())
    labels = np.flatnonzero(counts)
    rows = np.zeros(len(counts), np.int32)
    rows[labels] = np.arange(len(labels))
    return labels, rows[panoptic], counts[labels]


def _shade(color, instance):
    """A shade of the class colour: near in hue, any two of the first instances visibly apart."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(np.asarray(color) / 255))
    u = [_radical_inverse(instance, base) for base in (5, 3, 2)]
    hue = (hue + 0.16 * (u[0] - 0.5)) % 1
    saturation = np.interp(u[1], [0, 1], [max(saturation - 0.4, 0.25), min(saturation + 0.4, 1)])
    # From dark to bright, whatever the class is: the eye separates that best.
    value = 0.42 + 0.58 * u[2]
    return np.round(255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)))


def _radical_inverse(number, base):
    """Mirrors digits behind the point: 1, 2, 3, ... spread evenly over [0, 1) at any count."""
    digits = np.base_repr(number, base)
    return int(digits[::-1], base) / base ** len(digits)


def _find_borders(index, width):
    """bool[H, W], true on a line of `width` pixels along every change of segment."""
    border = np.zeros(index.shape, bool)
    for shift in range(1, width + 1):
        border[:-shift] |= index[:-shift] != index[shift:]
        border[:, :-shift] |= index[:, :-shift] != index[:, shift:]
    return border


def _measure_room(border):
    """f32[H, W], distance to the nearest border or edge; steps down or up cost more than aside."""
    room = np.where(border, np.float32(0), np.float32(1e6))
    for cost in (1.0, _VERTICAL_COST):
        ramp = cost * np.arange(1, room.shape[1] + 1, dtype=np.float32)
        # The edges of the picture are borders too.
        room = np.minimum(room, np.minimum(ramp, ramp[::-1]))
        for _ in range(2):
            # min over j <= i of room[j] + cost (i - j), as a running minimum; then mirrored.
            room = np.minimum.accumulate(room - ramp, axis=1) + ramp
            room = room[:, ::-1]
        room = room.T
    return room


def _write_names(picture, captions, index, areas, room):
    """Writes (row of the segment, text) pairs in order; those that find no room are left out."""
    height, width = index.shape
    font_px = np.clip(min(height, width) / 32, 10, 40)
    texts = []
    is_taken = np.zeros(index.shape, bool)
    for row, text in captions:
        # Small segments get a smaller name, but never an unreadable one.
        scale = np.clip(np.sqrt(areas[row] / index.size) * 6, 0.75, 1)
        font = _load_font(round(max(10, font_px * scale)))
        left, top, right, bottom = font.getbbox(text, anchor='mm')
        half_height, half_width = (bottom - top) // 2 + 3, (right - left) // 2 + 4
        if 2 * half_height >= height or 2 * half_width >= width:
            continue
        place = np.where(index == row, room, 0)
        best = place.max()
        for (rows, columns), *_ in texts:
            y, x = max(rows.start - half_height, 0), max(columns.start - half_width, 0)
            place[y : rows.stop + half_height, x : columns.stop + half_width] = 0
        # A segment of one pixel's width is all border.
        if not best or place.max() < _MIN_ROOM_SHARE * best:
            continue
        # In a wide segment many places are as good: the one in their middle looks best.
        places = np.argwhere(place >= 0.9 * place.max())
        middle = np.square(places - places.mean(axis=0)).sum(axis=1).argmin()
        y, x = places[middle]
        y = int(np.clip(y, half_height, height - half_height))
        x = int(np.clip(x, half_width, width - half_width))
        box = np.s_[y - half_height : y + half_height, x - half_width : x + half_width]
        # Moved back inside of the picture, it may have come upon another one.
        if is_taken[box].any():
            continue
        is_taken[box] = True
        texts.append((box, (x - (left + right) // 2, y - (top + bottom) // 2), text, font))
    # Dark plates make white letters readable on everything.
    picture[is_taken] //= 3
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for _, position, text, font in texts:
        draw.text(position, text, font=font, fill='white', anchor='mm')
    return np.asarray(canvas)


@functools.lru_cache(maxsize=64)
def _load_font(size_px):
    return ImageFont.load_default(size=size_px)


def _shrink(picture, max_side_px):
    image = Image.fromarray(picture)
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.BOX)
    return np.asarray(image)
