"""A small chart as SVG: axes with ticks, lines, points, bars and words. Nothing but text is needed to draw it."""

from collections.abc import Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 52
COLORS = ("#1f5fbf", "#b3470b", "#2b7a3d", "#7a3da8")
INK, FAINT = "#333333", "#d9d9d9"


class Chart:
    """A chart of ``title`` with a range along each axis; what is drawn lands in ``parts``."""

    def __init__(
        self, title: str, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]
    ) -> None:
        self.title, self.x, self.y, self.labels = title, x, y, labels
        self.parts: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            round(LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM), 1),
        )

    def line(self, points: Iterable[tuple[float, float]], color: str, width: float = 2) -> None:
        """A line through points."""
        path = " ".join(f"{x},{y}" for x, y in (self.place(*point) for point in points))
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>')

    def dot(self, point: tuple[float, float], color: str, hint: str, hollow: bool = False) -> None:
        """A point, with words that a pointer resting on it shows."""
        x, y = self.place(*point)
        fill = "#ffffff" if hollow else color
        self.parts.append(
            f'<circle cx="{x}" cy="{y}" r="4" fill="{fill}" stroke="{color}" stroke-width="1.5">'
            f"<title>{escape(hint)}</title></circle>"
        )

    def bar(self, x0: float, x1: float, height: float, color: str, base: float = 0.0) -> None:
        """A bar from ``x0`` to ``x1``."""
        (left, top), (right, bottom) = self.place(x0, height), self.place(x1, base)
        self.parts.append(
            f'<rect x="{left}" y="{top}" width="{round(right - left, 1)}" height="{round(bottom - top, 1)}" '
            f'fill="{color}"/>'
        )

    def words(self, point: tuple[float, float], text: str, anchor: str = "start", color: str = INK) -> None:
        """Words at a point."""
        x, y = self.place(*point)
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
        )

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """A row of colours and what they stand for, under the title."""
        x = float(LEFT)
        for color, text in entries:
            self.parts.append(f'<rect x="{x}" y="{TOP - 16}" width="10" height="10" fill="{color}"/>')
            self.parts.append(f'<text x="{x + 14}" y="{TOP - 7}" fill="{INK}">{escape(text)}</text>')
            x += 30 + 7.0 * len(text)

    def render(self, xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]]) -> str:
        """The whole picture, with ticks at ``xs`` and ``ys`` (value, label)."""
        grid: list[str] = []
        for value, label in ys:
            (x0, y), (x1, _) = self.place(self.x[0], value), self.place(self.x[1], value)
            grid.append(f'<line x1="{x0}" y1="{y}" x2="{x1}" y2="{y}" stroke="{FAINT}"/>')
            grid.append(
                f'<text x="{x0 - 8}" y="{y + 4}" text-anchor="end" fill="{INK}">{escape(label)}</text>'
            )
        for value, label in xs:
            x, y = self.place(value, self.y[0])
            grid.append(
                f'<text x="{x}" y="{y + 18}" text-anchor="middle" fill="{INK}">{escape(label)}</text>'
            )
        middle, bottom = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12
        upright = f'transform="rotate(-90 16 {HEIGHT / 2})"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
                f'font-family="sans-serif" font-size="12"><title>{escape(self.title)}</title>',
                f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
                f'<text x="{LEFT}" y="20" font-weight="bold" fill="{INK}">{escape(self.title)}</text>',
                *grid,
                *self.parts,
                f'<text x="{middle}" y="{bottom}" text-anchor="middle" fill="{INK}">{escape(self.labels[0])}</text>',
                f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" fill="{INK}" {upright}>'
                f"{escape(self.labels[1])}</text>",
                "</svg>",
                "",
            ]
        )
