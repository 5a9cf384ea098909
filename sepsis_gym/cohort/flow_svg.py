"""The cohort flow as a figure in SVG: the stays left after each rule and those it excludes."""

import textwrap
from collections.abc import Sequence
from html import escape

_WIDTH, _BOX, _SIDE = 620, 380, 150
_LINE, _PAD, _GAP = 19, 11, 46
_LETTERS = 56
"""Letters of the rule that fit on a line of its box."""
_STYLE = """
svg.flow { font: 13.5px "Helvetica Neue", Arial, "Liberation Sans", sans-serif }
svg.flow .paper { fill: #ffffff }
svg.flow text { fill: #1d2329; text-anchor: middle }
svg.flow .n { font-weight: 600 }
svg.flow .box { fill: #f5f7f9; stroke: #5b6770 }
svg.flow .out { fill: none; stroke: #9aa5ad; stroke-dasharray: 4 3 }
svg.flow .arrow { fill: none; stroke: #5b6770; stroke-width: 1.2 }
svg.flow .tip { fill: #5b6770 }
@media screen and (prefers-color-scheme: dark) {
  svg.flow .paper { fill: #14181c }
  svg.flow text { fill: #e3e7ea }
  svg.flow .box { fill: #1f252b; stroke: #8b969e }
  svg.flow .out { stroke: #6a757d }
  svg.flow .arrow { stroke: #8b969e }
  svg.flow .tip { fill: #8b969e }
}
"""


def flow_svg(rows: Sequence[tuple[str, ...]]) -> str:
    """Draws the flow from top to bottom.

    Args:
        rows: Rule, stays left after it and stays it excluded (empty for the first), as printed.

    Returns:
        One ``svg`` element, alone or inside a page, light or dark as the reader's screen is.
    """
    middle, side = 1 + _BOX / 2, _WIDTH - 1 - _SIDE
    parts: list[str] = []
    y = 1
    for rule, left, excluded in rows:
        if excluded:
            turn, y = y + _GAP / 2, y + _GAP
            parts.append(_arrow(f"M{middle} {turn - _GAP / 2}V{y - 7}", middle, y, down=True))
            parts.append(_arrow(f"M{middle} {turn}H{side - 7}", side, turn, down=False))
            parts.append(_box("out", side, turn - 15, _SIDE, 30))
            parts.append(_text("", side + _SIDE / 2, turn + 5, f"Excluded: {excluded}"))
        lines = textwrap.wrap(rule, _LETTERS)
        height = (len(lines) + 1) * _LINE + 2 * _PAD - 4
        parts.append(_box("box", 1, y, _BOX, height))
        for number, line in enumerate([*lines, f"n = {left}"], 1):
            kind = "n" if number > len(lines) else ""
            parts.append(_text(kind, middle, y + _PAD + number * _LINE - 6, line))
        y += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="flow" viewBox="0 0 {_WIDTH} {y + 1}" '
        f'width="{_WIDTH}" height="{y + 1}">\n<title>Cohort flow</title>\n<style>{_STYLE}</style>\n'
        f'<rect class="paper" width="{_WIDTH}" height="{y + 1}"/>\n' + "\n".join(parts) + "\n</svg>"
    )


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'


def _arrow(path: str, x: float, y: float, *, down: bool) -> str:
    tip = "l-4.5 -8h9z" if down else "l-8 -4.5v9z"
    return f'<path class="arrow" d="{path}"/><path class="tip" d="M{x} {y}{tip}"/>'
