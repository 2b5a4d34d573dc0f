"""Counted remarks about what a reader derived or repaired, one line for each kind.

The module needs only the standard library, so that commands that read files start at once.
"""

from collections.abc import Mapping


class Notices:
    """A collection of remarks by kind, in the order of their first places."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, text: str, example: str, count: int = 1) -> None:
        """Counts one more place, or several.

        Args:
          text: the remark, from a noun in the plural on; the same for a whole kind.
          example: the place.
          count: number of places.
        """
        before, first = self._found.get(text, (0, example))
        self._found[text] = (before + count, first)

    def add_remarks(self, remarks: Mapping[str, int], example: str) -> None:
        """Adds remarks of one place: wording with {} -> count."""
        for wording, count in remarks.items():
            self.add(wording.removeprefix('{} '), example, count)

    def merge(self, other: 'Notices') -> None:
        """Adds the remarks of another collection."""
        for text, (count, first) in other._found.items():
            self.add(text, first, count)

    def to_lines(self) -> tuple[str, ...]:
        """Returns a line for each kind, with the number of places and the first one."""
        return tuple(
            f'{count} {text} (first: {first})' for text, (count, first) in self._found.items()
        )
