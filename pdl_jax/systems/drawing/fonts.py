"""The font of names and titles in pictures."""

import functools

from PIL import ImageFont


@functools.lru_cache(maxsize=64)
def load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loads Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size=size_px)
