"""An entity diagram of one domain as SVG: every table with its columns, a line for every key inside the domain.

Keys that leave the domain are named in their row instead: nearly every table points at organizations and users, and
as lines these would hide all others.
"""

from html import escape

from local.schema.catalog import Column, Schema, Table
from local.schema.layout import Edge, Layout, arrange

ROW, HEAD, FONT = 18, 28, 11.5
WIDEST = 1000  # a page of the docs shows about 900 pixels
_SMALL, _GAP = 10.5, 16
_FAMILY = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_CHARACTER = FONT * 0.602  # of a monospaced font
_SHORT = {
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
    "integer": "int",
    "boolean": "bool",
}
_LEGEND = ("● primary key", "○ key", "→ to a table of another domain", "fork: many", "? may be null")
_LEGEND_WIDTH = round(sum(map(len, _LEGEND)) * _SMALL * 0.602 + (len(_LEGEND) - 1) * _GAP + 2 * 22)
_LINES = ("#4f46e5", "#0d9488", "#c2410c", "#be185d", "#0369a1", "#65a30d", "#7c3aed", "#a16207")


def diagrams(schema: Schema, domain: str) -> dict[str, str]:
    """File name → diagram. A domain whose tables would be wider than a page has several, each legible at page width."""
    parts: list[list[Table]] = []
    for table in (table for table in schema.tables if table.domain == domain):
        fitting = [part for part in parts if _arranged([*part, table]).width <= WIDEST]
        if fitting:
            max(fitting, key=lambda part: sum(_is_joined(table, other) for other in part)).append(table)
        else:
            parts.append([table])
    names = [domain, *(f"{domain}-{number}" for number in range(2, len(parts) + 1))]
    return {f"{name}.svg": _render(domain, tables) for name, tables in zip(names, parts, strict=True)}


def _is_joined(one: Table, other: Table) -> bool:
    return any(key.target == other.name for key in one.foreign_keys) or any(
        key.target == one.name for key in other.foreign_keys
    )


def _arranged(tables: list[Table]) -> Layout:
    inside = {table.name for table in tables}
    edges = [
        Edge(table.name, _offset(table, _column(key.columns)), key.target, not key.unique)
        for table in tables
        for key in table.foreign_keys
        if key.target in inside - {table.name}
    ]
    return arrange({table.name: _size(table, inside) for table in tables}, edges, HEAD / 2)


def _render(domain: str, tables: list[Table]) -> str:
    inside = {table.name for table in tables}
    layout = _arranged(tables)
    width, height = f"{max(layout.width, _LEGEND_WIDTH):g}", f"{layout.height + 26:g}"
    legend = "".join(f'<tspan dx="{_GAP if at else 0}">{words}</tspan>' for at, words in enumerate(_LEGEND))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        f'  role="img" aria-labelledby="t" font-family="{_FAMILY}" font-size="{FONT}">',
        f'<title id="t">{domain.replace("_", " ").capitalize()}: tables and their keys</title>',
        f'<rect width="{width}" height="{height}" rx="14" fill="#f8fafc"/>',
        *_strokes(layout),
        *(line for table in tables for line in _box(table, inside, layout)),
        f'<text x="22" y="{layout.height + 8:g}" fill="#64748b" font-size="{_SMALL}">{legend}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _column(columns: tuple[str, ...]) -> str:
    """Which column of a key stands for it: the last one that is not the tenant, which others share."""
    return next((column for column in reversed(columns) if column != "organization_id"), columns[0])


def _offset(table: Table, column: str) -> float:
    at = [each.name for each in table.columns].index(column)
    return HEAD + at * ROW + ROW / 2 + 3


def _size(table: Table, inside: set[str]) -> tuple[float, float]:
    rows = [f"{column.name}{_type(table, column, inside)}" for column in table.columns]
    characters = max([len(table.name) + 2, *(len(row) + 5 for row in rows)])
    return round(characters * _CHARACTER + 22), HEAD + len(rows) * ROW + 7


def _target(table: Table, column: Column, inside: set[str]) -> str | None:
    """The table that this column points at without a line: one outside of the domain, or its own."""
    for key in table.foreign_keys:
        if key.target not in inside - {table.name} and column.name == _column(key.columns):
            return key.target
    return None


def _type(table: Table, column: Column, inside: set[str]) -> str:
    if target := _target(table, column, inside):
        name = f"→ {target}"
    else:
        element = column.type.removesuffix("[]")
        name = _SHORT.get(element, element.strip('"')) + column.type[len(element) :]
    return name + ("" if column.required else "?")


def _box(table: Table, inside: set[str], layout: Layout) -> list[str]:
    box = layout.boxes[table.name]
    left, right = box.x, box.x + box.width
    keys = {_column(key.columns) for key in table.foreign_keys}
    frame = f'x="{left:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="8"'
    head = f"M{left:g} {box.y + HEAD:g}v{8 - HEAD:g}q0 -8 8 -8h{box.width - 16:g}q8 0 8 8v{HEAD - 8:g}z"
    lines = [
        f"<g><title>{escape(table.comment)}</title>",
        f'<rect {frame} fill="#fff" stroke="#cbd5e1"/>',
        f'<path d="{head}" fill="#e0e7ff" stroke="#cbd5e1"/>',
        f'<text x="{left + 12:g}" y="{box.y + 19:g}" font-weight="700" font-size="12.5" fill="#1e1b4b">',
        f"{table.name}</text>",
    ]
    for column in table.columns:
        y = box.y + _offset(table, column.name)
        primary = column.name in table.primary_key
        dot = f'<circle cx="{left + 12:g}" cy="{y:g}" r="3.2" stroke="#6366f1" stroke-width="1.3"'
        if primary:
            lines.append(f'{dot} fill="#6366f1"/>')
        elif column.name in keys:
            lines.append(f'{dot} fill="#fff"/>')
        weight = ' font-weight="600"' if primary else ""
        color = "#0d9488" if _target(table, column, inside) else "#64748b"
        lines.append(f'<text x="{left + 21:g}" y="{y + 4:g}" fill="#0f172a"{weight}>{column.name}</text>')
        lines.append(
            f'<text x="{right - 9:g}" y="{y + 4:g}" text-anchor="end" fill="{color}">'
            f"{escape(_type(table, column, inside))}</text>"
        )
    return [*lines, "</g>"]


def _strokes(layout: Layout) -> list[str]:
    lines = []
    for number, (parent, strokes) in enumerate(layout.strokes.items()):
        color = _LINES[number % len(_LINES)]
        lines.append(f'<g fill="none" stroke="{color}" stroke-width="1.5">')
        lines += [f'<path d="{_rounded(stroke)}"/>' for stroke in strokes]
        lines += [f'<path d="M{x:g} {y - 4:g}l-8 4l8 4"/>' for x, y in layout.many.get(parent, ())]
        lines.append("</g>")
    return lines


def _rounded(points: list[tuple[float, float]]) -> str:
    (x0, y0), (x1, y1), (_, y2), (x3, _) = points
    bend = min(7.0, abs(y2 - y1) / 2)
    if not bend:
        return f"M{x0:g} {y0:g}H{x3:g}"
    down = bend if y2 > y1 else -bend
    return (
        f"M{x0:g} {y0:g}H{x1 - bend:g}q{bend:g} 0 {bend:g} {down:g}V{y2 - down:g}q0 {down:g} {bend:g} {down:g}H{x3:g}"
    )
