"""The font of names and titles in pictures."""

import functools
import unicodedata
from collections.abc import Sequence

from PIL import ImageFont

# No font has a glyph for this character, so that it looks like all others without one.
_NO_CHARACTER = '\uffff'


@functools.lru_cache(maxsize=64)
def load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loads Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size=size_px)


@functools.lru_cache(maxsize=4096)
def make_drawable(text: str, size_px: int = 16) -> str:
    """Leaves out what the font cannot draw.

    Args:
      text: any text; letters lose accents that the font lacks.
      size_px: size of the font.

    Returns:
      One line; '' if nothing could be drawn.
    """
    drawable = []
    for character in ' '.join(text.split()):
        bases = [c for c in unicodedata.normalize('NFKD', character) if _has_glyph(c, size_px)]
        drawable += [character] if _has_glyph(character, size_px) else bases
    return ' '.join(''.join(drawable).split())


def short_name(class_names: Sequence[str], semantic: int) -> str:
    """Returns the name of a class for pictures, 'class N' if the font cannot draw it."""
    # COCO marks its merged stuff classes by suffixes, which only take room here.
    name = class_names[semantic].replace('-merged', '').replace('-other', '')
    return make_drawable(name) or f'class {semantic}'


@functools.lru_cache(maxsize=4096)
def _has_glyph(character: str, size_px: int) -> bool:
    if character == ' ' or character.isascii():
        return character.isprintable()
    font = load_font(size_px)
    mask, missing = (list(font.getmask(c)) for c in (character, _NO_CHARACTER))  # pyright: ignore[reportArgumentType] - Pillow types no iteration.
    return bool(mask) and mask != missing
