"""Integer arithmetic on static sizes."""


def ceil_div(dividend: int, divisor: int) -> int:
    """Divides and rounds up, exactly at any size: ceil_div(7, 2) is 4."""
    return -(-dividend // divisor)
