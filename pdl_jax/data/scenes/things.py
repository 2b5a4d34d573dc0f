"""Placement of things in the generated scenes, alone, in groups and in crowds, with shadows."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from pdl_jax.data.scenes import sprites as scene_sprites
from pdl_jax.data.scenes.places import STUFF_LABELS, STUFF_NAMES, Canvas
from pdl_jax.data.scenes.textures import Light, ramp

MAX_THINGS = 12

# Stuff on which the foot of a thing may stand.
_GROUND = {
    'person': ('grass', 'sand', 'road'),
    'car': ('road',),
    'boat': ('water',),
    'ball': ('grass', 'sand'),
    'tree': ('grass',),
    'house': ('grass',),
    'sheep': ('grass',),
}
# Range of the nearness (0 horizon, 1 bottom edge) of the foot. Houses near the camera would hide
# the scene.
_DEPTHS = {
    'person': (0.05, 1.03),
    'car': (0.05, 1.02),
    'boat': (0.06, 0.9),
    'ball': (0.15, 1.0),
    'tree': (0.03, 0.7),
    'house': (0.02, 0.3),
    'sheep': (0.12, 1.0),
}
# Relative frequency of the classes by kind of place.
_THINGS = {
    'street': {'car': 5, 'tree': 2, 'house': 2, 'person': 2, 'ball': 1},
    'town': {'car': 5, 'person': 3, 'ball': 2, 'tree': 1},
    'lake': {'boat': 5, 'sheep': 2, 'tree': 2, 'person': 2, 'ball': 1},
    'beach': {'boat': 4, 'ball': 4, 'person': 4},
    'meadow': {'house': 3, 'sheep': 4, 'tree': 3, 'ball': 2, 'person': 1},
}
# Groups that stand side by side: (probability, smallest size, largest size).
_GROUPS = {
    'person': (0.55, 2, 4),
    'car': (0.65, 2, 4),
    'boat': (0.4, 2, 3),
    'ball': (0.5, 2, 4),
    'tree': (0.6, 2, 4),
    'house': (0.6, 2, 3),
    'sheep': (0.6, 2, 4),
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """A thing and its place.

    Attributes:
      name: class of the thing.
      x, y: column and row of its foot in pixels.
      scale: size relative to `sprites.SIZES_PX`.
    """

    name: str
    x: float
    y: float
    scale: float

    def box(self) -> tuple[float, float, float, float]:
        """Returns (left, top, right, bottom) in pixels."""
        height, width = (size * self.scale for size in scene_sprites.SIZES_PX[self.name])
        return self.x - width / 2, self.y - height, self.x + width / 2, self.y


def place_things(rng: np.random.Generator, kind: str, canvas: Canvas) -> list[Placement]:
    """Chooses classes and positions, in groups that touch, so that no thing hides another.

    Args:
      rng: source of randomness.
      kind: kind of place, one of `places.KINDS`.
      canvas: canvas that shows only stuff.

    Returns:
      At most MAX_THINGS placements, from far to near.
    """
    weights = _THINGS[kind]
    names = list(weights)
    chances = np.array([weights[name] for name in names], float)
    wanted = int(rng.integers(6, MAX_THINGS + 1))
    placed = []
    for _ in range(60):
        if len(placed) >= wanted:
            break
        name = names[rng.choice(len(names), p=chances / chances.sum())]
        probability, smallest, largest = _GROUPS[name]
        size = int(rng.integers(smallest, largest + 1)) if rng.random() < probability else 1
        placed += _place_group(rng, name, min(size, wanted - len(placed)), canvas, placed)
    return sorted(placed, key=lambda thing: thing.y)


def _place_group(
    rng: np.random.Generator, name: str, size: int, canvas: Canvas, placed: Sequence[Placement]
) -> list[Placement]:
    """Returns the members of one group that have room: the first anywhere, the others beside it."""
    view = canvas.view
    for _ in range(8):
        depth = rng.uniform(*_DEPTHS[name])
        y = view.horizon_px + depth * (view.height_px - view.horizon_px)
        x = rng.uniform(0.02, 0.98) * view.width_px
        first = Placement(name, x, y, float(view.scale_at(y)))
        if can_stand(first, canvas) and not is_hiding(first, placed, share=0.22):
            break
    else:
        return []
    group = [first]
    step = 1 if first.x < view.width_px / 2 else -1
    for _ in range(size - 1):
        left, _, right, _ = group[-1].box()
        # A pitch of 0.75 to 0.95 widths: neighbours touch, and each remains mostly visible.
        x = group[-1].x + step * (right - left) * rng.uniform(0.75, 0.95)
        y = first.y + rng.uniform(-3, 3) * first.scale
        member = Placement(name, x, y, float(view.scale_at(y) * rng.uniform(0.95, 1.05)))
        if can_stand(member, canvas) and not is_hiding(member, placed, share=0.22):
            group.append(member)
        else:
            break
    return group


def place_thing(rng: np.random.Generator, name: str, canvas: Canvas) -> Placement | None:
    """Chooses a position for one thing of a class; None if there is no room.

    Args:
      rng: source of randomness.
      name: class of the thing.
      canvas: canvas that shows only stuff.
    """
    placed = _place_group(rng, name, 1, canvas, [])
    return placed[0] if placed else None


def find_kinds(name: str) -> tuple[str, ...]:
    """Finds the kinds of places that have things of a class."""
    return tuple(kind for kind, weights in _THINGS.items() if name in weights)


def can_stand(thing: Placement, canvas: Canvas) -> bool:
    """Returns whether the foot and both its ends lie on ground that suits the class."""
    height, width = canvas.label.shape
    left, _, right, _ = thing.box()
    if not -0.2 * (right - left) < thing.x < width + 0.2 * (right - left):
        return False
    row = int(min(max(thing.y, 0), height - 1))
    feet = (0.7 * left + 0.3 * right, thing.x, 0.3 * left + 0.7 * right)
    columns = [int(min(max(x, 0), width - 1)) for x in feet]
    suitable = {STUFF_LABELS[name] for name in _GROUND[thing.name]}
    return suitable.issuperset(canvas.label[row, columns].tolist())


def is_hiding(thing: Placement, placed: Sequence[Placement], *, share: float) -> bool:
    """Returns whether the box of `thing` overlaps another by more than `share` of the smaller."""
    left, top, right, bottom = thing.box()
    for other in placed:
        other_left, other_top, other_right, other_bottom = other.box()
        width = min(right, other_right) - max(left, other_left)
        height = min(bottom, other_bottom) - max(top, other_top)
        area = min(
            (right - left) * (bottom - top), (other_right - other_left) * (other_bottom - other_top)
        )
        if width > 0 and height > 0 and width * height > share * area:
            return True
    return False


def place_crowd(
    rng: np.random.Generator, kind: str, canvas: Canvas, things: Sequence[Placement]
) -> list[Placement]:
    """Places a dense, distant cluster of one class, to be annotated as one crowd region.

    Args:
      rng: source of randomness.
      kind: kind of place, one of `places.KINDS`.
      canvas: canvas that shows only stuff.
      things: things that are placed already; they must leave most of the cluster visible.

    Returns:
      Placements from far to near; [] if there is no room.
    """
    name = {
        'street': 'person',
        'town': 'person',
        'lake': 'sheep',
        'beach': 'person',
        'meadow': 'sheep',
    }[kind]
    view = canvas.view
    for _ in range(12):
        y = view.horizon_px + rng.uniform(0.08, 0.35) * (view.height_px - view.horizon_px)
        scale = float(view.scale_at(y)) * 0.62
        height, width = (scale * size for size in scene_sprites.SIZES_PX[name])
        x, columns = rng.uniform(0.2, 0.8) * view.width_px, int(rng.integers(6, 11))
        crowd = []
        for row in range(3):
            for column in range(columns):
                along = column - columns / 2 + 0.5 * (row % 2) + rng.uniform(-0.15, 0.15)
                foot = y + (row * 0.28 + rng.uniform(-0.05, 0.05)) * height
                crowd.append(Placement(name, x + 0.7 * width * along, foot, scale))
        stands = [can_stand(member, canvas) for member in crowd]
        hidden = [is_hiding(member, things, share=0.5) for member in crowd]
        if np.mean(stands) > 0.9 and np.mean(hidden) < 0.25:
            return [member for member, stand in zip(crowd, stands, strict=True) if stand]
    return []


def draw_thing(
    rng: np.random.Generator,
    canvas: Canvas,
    light: Light,
    thing: Placement,
    label: int,
    *,
    is_end_view: bool = False,
) -> None:
    """Draws a thing with its shadow, a boat with its reflection, and labels it `label`."""
    sprite = scene_sprites.draw_sprite(
        rng, thing.name, light, scale=thing.scale, is_end_view=is_end_view
    )
    haze = 0.28 * (1 - ramp(canvas.view.depth_at(thing.y), 0.0, 0.6))
    sprite[..., :3] = (
        sprite[..., :3] * (1 - haze) + sprite[..., 3:] * np.array(light.skyline, np.float32) * haze
    )
    height, width = sprite.shape[:2]
    top, left = int(round(thing.y)) - height + 2, int(round(thing.x - width / 2))
    if thing.name == 'boat':
        mirror = (
            sprite[::-1][: int(0.7 * height), :, 3]
            * np.linspace(0.5, 0.1, int(0.7 * height))[:, None]
        )
        canvas.darken(
            mirror, top + height - 4, left, spare=tuple(range(len(STUFF_NAMES) + 1, label))
        )
    else:
        _cast_shadow(canvas, light, sprite[..., 3], top, left)
    canvas.paste(sprite, top, left, label)


def _cast_shadow(canvas: Canvas, light: Light, alpha: np.ndarray, top: int, left: int) -> None:
    """Darkens the ground by the sheared, flattened outline of a sprite, away from the sun."""
    height, width = alpha.shape
    reach = int(np.ceil(abs(light.side) * light.shadow_length * height))
    rows = int(np.ceil(abs(light.shadow_rise) * height)) + 4
    rises = light.shadow_rise > 0
    foot = rows - 2 if rises else 2
    start = reach if light.side > 0 else 0
    # Output pixel (x, y) shows the sprite at height v = (foot - y) / rise above its own foot.
    slope = 1.0 / light.shadow_rise
    shear = light.side * light.shadow_length * slope
    matrix = (1.0, -shear, shear * foot - start, 0.0, slope, height - 2 - foot * slope)
    sheet = Image.fromarray((alpha * 255).astype(np.uint8))
    shadow = sheet.transform(
        (width + reach, rows), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    ).filter(ImageFilter.BoxBlur(1))
    amount = np.asarray(shadow, np.float32) / 255 * (0.18 + 0.34 * light.contrast)
    spare = (STUFF_LABELS['sky'], STUFF_LABELS['mountain'])
    canvas.darken(amount, top + height - 2 - foot, left - start, spare=spare)
