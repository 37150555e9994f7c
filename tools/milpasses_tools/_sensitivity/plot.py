"""A sensitivity table as an SVG: a cell for each weight and candidate, darker where more is lost."""

from html import escape
from typing import TYPE_CHECKING

from milpasses_tools._sensitivity.order import by_sensitivity, decibels

if TYPE_CHECKING:
    from milpasses.budget import Option, Sensitivity, WeightOptions

_ROW, _COLUMN, _LEFT, _TOP = 18, 58, 330, 84
_BEST, _WORST = 60.0, 0.0  # dB: the ends of the colours


def picture(table: "Sensitivity") -> str:
    """The picture as SVG."""
    weights = [one for one in by_sensitivity(table) if not one.pinned]
    width = _LEFT + _COLUMN * len(table.candidates) + 10
    height = _TOP + _ROW * len(weights) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, scheme in enumerate(table.candidates):
        x, y = _LEFT + _COLUMN * column + _COLUMN // 2, _TOP - 8
        parts.append(f'<text transform="translate({x} {y}) rotate(-40)">{escape(scheme)}</text>')
    for row, weight in enumerate(weights):
        parts.extend(_row(weight, table.candidates, _TOP + _ROW * row))
    return "\n".join([*parts, "</svg>"])


def _row(weight: "WeightOptions", candidates: tuple[str, ...], y: int) -> list[str]:
    label = weight.name if len(weight.name) <= 48 else f"...{weight.name[-45:]}"
    title = f"{weight.name} {'x'.join(map(str, weight.shape))}, {weight.nbytes:,} bytes"
    found = [
        f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(label)}'
        f"<title>{escape(title)}</title></text>"
    ]
    for column, scheme in enumerate(candidates):
        option = weight.option(scheme)
        if option is not None:
            found.append(_cell(weight, option, _LEFT + _COLUMN * column, y))
    return found


def _cell(weight: "WeightOptions", option: "Option", x: int, y: int) -> str:
    ratio = decibels(option.output_error)
    share = 0.0 if ratio is None else min(max((_BEST - ratio) / (_BEST - _WORST), 0.0), 1.0)
    fill = tuple(round(pale + (dark - pale) * share) for pale, dark in ((236, 150), (243, 20), (250, 30)))
    ink = "#ffffff" if share > 0.55 else "#000000"
    text = "exact" if ratio is None else f"{ratio:.1f}"
    title = (
        f"{weight.name}: {option.scheme}, {option.nbytes:,} bytes, {weight.nbytes - option.nbytes:,} saved, "
        f"{text}{'' if ratio is None else ' dB'}"
    )
    return (
        f'<g><title>{escape(title)}</title><rect x="{x}" y="{y}" width="{_COLUMN - 2}" height="{_ROW - 2}" '
        f'fill="rgb{fill}"/><text x="{x + _COLUMN // 2 - 1}" y="{y + 12}" text-anchor="middle" fill="{ink}">'
        f"{text}</text></g>"
    )
