"""Sizes on the command line."""

import re


def parse_size(flag: str, text: str) -> tuple[int, int]:
    """Parses HEIGHTxWIDTH in pixels.

    Raises:
      ValueError: it is something else.
    """
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text)
    if not match:
        raise ValueError(f'--{flag}={text} must be HEIGHTxWIDTH in pixels, for example 1025x2049')
    return int(match[1]), int(match[2])
