"""What is said to the user about his own mistakes."""

from __future__ import annotations

#: Longer messages lose their middle: somebody's value is not worth a screen.
_LONGEST = 1000


def printable(text: object) -> str:
    """Text as one line that a terminal can show: what is not printable escaped, the middle of what is long left out."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST * 2 // 3]} [...] {line[7 - _LONGEST // 3 :]}"


class UserError(Exception):
    """A mistake of the user's: its text is one line that says what was wrong and what is allowed."""

    def __init__(self, text: object) -> None:
        super().__init__(printable(text))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of a traceback."""
        return [f"{type(self).__name__}: {self}"]
