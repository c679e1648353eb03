"""Tables in Markdown and plots in SVG for the reports, written here so that they have no other sources.

A module of scripts/bench-report and scripts/video-report. Each plot takes plain lists and returns the text of one SVG; it is
for a white page, with the reader's own sans-serif font. Python's standard library only.
"""

import html
import math

COLOURS = ["#3b6ea5", "#d98c3f", "#6a9f58", "#a05195", "#8c8c8c"]

# From good to bad, readable with black text.
SCALE = [(0xdc, 0xee, 0xd8), (0xff, 0xf3, 0xc4), (0xf7, 0xb5, 0x9b)]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def page(width, height, title, parts):
    """An SVG of this size, in pixels, with a title at its top left."""
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
         'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>',
         text(8, 20, title, size=14)] + parts + ["</svg>"]) + "\n"


def text(x, y, words, anchor="start", size=12, fill="#222222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
            f'{html.escape(str(words))}</text>')


def legend(x, y, names, colours=COLOURS):
    """Names with their colours, in a row from `x` on."""
    parts = []
    for name, colour in zip(names, colours):
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>' + text(x + 14, y, name))
        x += 30 + 7 * len(name)
    return parts


def bars(title, unit, rows, names):
    """Stacked horizontal bars: rows are (label, [part, …]), `names` those of the parts."""
    left, width, height, top = 330, 430, 22, 50
    most = max((sum(values) for _, values in rows), default=0) or 1
    parts = legend(left, 39, names)
    for row, (label, values) in enumerate(rows):
        y = top + height * row
        parts.append(text(left - 8, y + 14, label, "end"))
        x = left
        for colour, value in zip(COLOURS, values):
            length = value / most * width
            parts.append(f'<rect x="{x:.1f}" y="{y + 3}" width="{length:.1f}" height="{height - 6}" fill="{colour}"/>')
            x += length
        parts.append(text(x + 6, y + 14, f"{sum(values):,.0f} {unit}"))
    return page(left + width + 90, top + height * len(rows) + 12, title, parts)


def shade(badness):
    """The colour of a part from 0, good, to 1, bad."""
    place = min(max(badness, 0), 1) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(SCALE[low], SCALE[low + 1])]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def heat_map(title, columns, rows, cells):
    """A coloured table: `cells` gives for (row, column) what is written there and how bad it is, from 0 to 1."""
    left, top, width, height = 150, 56, 96, 24
    parts = [text(left + width * (at + 0.5), top - 8, name, "middle") for at, name in enumerate(columns)]
    for at, row in enumerate(rows):
        y = top + height * at
        parts.append(text(left - 8, y + 16, row, "end"))
        for place, column in enumerate(columns):
            x = left + width * place
            words, badness = cells.get((row, column), ("–", 0))
            parts.append(f'<rect x="{x + 1}" y="{y + 1}" width="{width - 2}" height="{height - 2}" '
                         f'fill="{shade(badness)}"/>' + text(x + width / 2, y + 16, words, "middle"))
    return page(left + width * len(columns) + 12, top + height * len(rows) + 12, title, parts)


def round_scale(most):
    """The least number that is not below `most` and whose quarters are short to write."""
    power = 10 ** math.floor(math.log10(most)) if most > 0 else 1
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * power >= most)


def lines(title, panels, names, seconds, unit, columns=2, colours=COLOURS):
    """Small plots over time, each with its own scale from 0: panels are (label, [[value, …] per name])."""
    width, height, left, top = 400, 150, 52, 50
    parts = legend(left, 39, names, colours)
    for at, (label, series) in enumerate(panels):
        x0, y0 = left + (width + left) * (at % columns), top + 22 + (height + 52) * (at // columns)
        most = round_scale(max(max(values) for values in series))
        parts.append(text(x0, y0 - 6, label))
        for part in range(5):
            y = y0 + height * (1 - part / 4)
            parts.append(f'<path d="M{x0} {y:.1f}h{width}" stroke="#dddddd"/>'
                         + text(x0 - 6, y + 4, f"{most * part / 4:g}", "end", 11))
        for second in range(0, seconds + 1, 5):
            x = x0 + width * second / seconds
            parts.append(text(x, y0 + height + 15, f"{second} s" if second else f"0 s, {unit}",
                              "middle" if second else "start", 11))
        for values, colour in zip(series, colours):
            points = " ".join(f"{x0 + width * (place + 1) / len(values):.1f},{y0 + height * (1 - value / most):.1f}"
                              for place, value in enumerate(values))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    rows = -(-len(panels) // columns)
    return page(left + (width + left) * columns, top + 22 + (height + 52) * rows, title, parts)


def pairs(title, groups, rows, names):
    """Dots on lines, to compare two: groups are (label, most), rows (label, [(one, other) per group]).

    What is above the most of its group is drawn beyond its scale, and written beside it.
    """
    left, width, gap, height, top = 170, 200, 70, 22, 66
    parts = legend(left, 39, names)
    for place, (label, most) in enumerate(groups):
        x0 = left + (width + gap) * place
        parts.append(text(x0, top - 6, label))
        for part in range(5):
            x = x0 + width * part / 4
            parts.append(f'<path d="M{x:.1f} {top}v{height * len(rows)}" stroke="#dddddd"/>'
                         + text(x, top + height * len(rows) + 15, f"{most * part / 4:g}", "middle", 11))
    for at, (label, values) in enumerate(rows):
        y = top + height * (at + 0.5)
        parts.append(text(left - 10, y + 4, label, "end"))
        for place, ((_, most), pair) in enumerate(zip(groups, values)):
            x0 = left + (width + gap) * place
            near, far = (x0 + width * min(value / most, 1.04) for value in pair)
            parts.append(f'<path d="M{near:.1f} {y}H{far:.1f}" stroke="#bbbbbb" stroke-width="2"/>')
            for x, colour in ((far, COLOURS[1]), (near, COLOURS[0])):
                parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
            if max(pair) > most:
                beyond = " and ".join(f"{value:.1f}" for value in pair if value > most)
                parts.append(text(x0 + width * 1.04 + 7, y + 4, beyond, size=11))
    return page(left + (width + gap) * len(groups), top + height * len(rows) + 28, title, parts)
