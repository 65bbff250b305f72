"""Where the tables of a diagram stand and how lines run between them: parents left, children right.

A line never crosses a table: it runs in the gutter between two columns of tables, and passes a column in between
through a corridor that is kept free for it. All lines to one parent share one track in a gutter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations

GAP, CORRIDOR, TRACK, MARGIN = 26, 12, 13, 22


@dataclass
class Box:
    """A table, or with no name the corridor of a parent's lines through a column."""

    name: str
    width: float
    height: float
    parent: str = ""
    x: float = 0
    y: float = 0

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Edge:
    """A key: from a row of the child, `offset` below its top, to its parent."""

    child: str
    offset: float
    parent: str
    many: bool


@dataclass
class Layout:
    boxes: dict[str, Box]
    width: float
    height: float
    # Per parent, the strokes of its lines; they end at (x, y) of the rows that refer to it.
    strokes: dict[str, list[list[tuple[float, float]]]] = field(default_factory=dict)
    many: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def arrange(sizes: Mapping[str, tuple[float, float]], edges: Sequence[Edge], head: float) -> Layout:
    """`head` is how far below its top a parent is met."""
    layers = _layers(list(sizes), edges)
    columns = [[Box(name, *sizes[name]) for name in layer] for layer in layers]
    boxes = {box.name: box for column in columns for box in column}
    depth = {name: number for number, layer in enumerate(layers) for name in layer}
    forward = [edge for edge in edges if depth[edge.parent] < depth[edge.child]]
    for parent in dict.fromkeys(edge.parent for edge in forward):
        last = max(depth[edge.child] for edge in forward if edge.parent == parent)
        for number in range(depth[parent] + 1, last):
            columns[number].append(Box("", 0, CORRIDOR, parent))
    _order(columns, forward)
    _spread(columns, sizes, {edge.child for edge in edges} | {edge.parent for edge in edges}, boxes)
    return _route([column for column in columns if column], forward, boxes, head)


def _layers(names: list[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Longest path from a table without parents; a key that would close a circle is left out of the count."""
    parents: dict[str, set[str]] = {name: set() for name in names}
    for edge in edges:
        parents[edge.child].add(edge.parent)
    depth: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> int:
        if name not in depth:
            steps = [visit(parent, (*above, name)) + 1 for parent in sorted(parents[name]) if parent not in above]
            depth[name] = max(steps, default=0)
        return depth[name]

    connected = {name for edge in edges for name in (edge.child, edge.parent)}
    for name in names:
        visit(name, (name,))
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        if name in connected:
            layers[depth[name]].append(name)
    return layers


def _order(columns: list[list[Box]], edges: Sequence[Edge]) -> None:
    """Bring each box near to what it is joined with, there and back a few times."""
    for sweep in range(8):
        numbers = range(1, len(columns)) if sweep % 2 == 0 else range(len(columns) - 2, -1, -1)
        for number in numbers:
            beside = columns[number - 1 if sweep % 2 == 0 else number + 1]
            place = {id(box): at / max(len(beside), 1) for at, box in enumerate(beside)}

            def weight(box: Box, beside: list[Box] = beside, place: dict[int, float] = place) -> float:
                joined = [place[id(other)] for other in beside if _joined(box, other, edges)]
                return sum(joined) / len(joined) if joined else 0.5

            columns[number].sort(key=weight)


def _joined(one: Box, other: Box, edges: Sequence[Edge]) -> bool:
    if one.parent or other.parent:
        return (one.parent or one.name) == (other.parent or other.name) or any(
            edge.parent == (one.parent or other.parent) and edge.child in (one.name, other.name) for edge in edges
        )
    return any({edge.child, edge.parent} == {one.name, other.name} for edge in edges)


def _spread(
    columns: list[list[Box]], sizes: Mapping[str, tuple[float, float]], connected: set[str], boxes: dict[str, Box]
) -> None:
    """Tables that are joined with none go where there is room, in as many columns as look like a page."""
    lonely = sorted((name for name in sizes if name not in connected), key=lambda name: -sizes[name][1])
    area = sum(sizes[name][1] + GAP for name in lonely)
    tallest = max([area / 3, *(_height(column) for column in columns), *(sizes[name][1] for name in lonely)])
    while sum(max(0, tallest - _height(column)) for column in columns) < area:
        columns.append([])
    for name in lonely:
        box = boxes[name] = Box(name, *sizes[name])
        min(columns, key=_height).append(box)


def _height(column: Sequence[Box]) -> float:
    return sum(box.height + GAP for box in column)


def _route(columns: list[list[Box]], edges: Sequence[Edge], boxes: dict[str, Box], head: float) -> Layout:
    tallest = max(_height(column) for column in columns)
    for column in columns:
        y = MARGIN + (tallest - _height(column)) / 2
        for box in column:
            box.y, y = y, y + box.height + GAP
    layout = Layout(boxes, 0, tallest - GAP + 2 * MARGIN)
    where = {box.name: number for number, column in enumerate(columns) for box in column if box.name}
    x: float = MARGIN
    for number, (column, beyond) in enumerate(pairwise([*columns, []])):
        width = max(box.width for box in column)
        for box in column:
            box.x = x
            box.width = width
        x += width
        lines = _lines(number, column, beyond, edges, where, boxes)
        tracks = _tracks(lines)
        gutter = TRACK * (len(tracks) + 1) + 16 if beyond else 0
        for parent, (source, targets) in lines.items():
            at = x + 8 + TRACK * (tracks.index(parent) + 1)
            strokes = layout.strokes.setdefault(parent, [])
            start = x - width if source.parent else x  # a corridor is passed from its left end
            y = source.middle if source.parent else source.y + head
            strokes += [[(start, y), (at, y), (at, end), (x + gutter, end)] for end in targets]
        x += gutter
    layout.width = x + MARGIN
    for edge in edges:
        if edge.many:
            child = boxes[edge.child]
            layout.many.setdefault(edge.parent, []).append((child.x, child.y + edge.offset))
    return layout


def _lines(
    number: int,
    column: Sequence[Box],
    beyond: Sequence[Box],
    edges: Sequence[Edge],
    where: Mapping[str, int],
    boxes: Mapping[str, Box],
) -> dict[str, tuple[Box, list[float]]]:
    """Parent → where its line enters this gutter, and at which heights it leaves it."""
    lines: dict[str, tuple[Box, list[float]]] = {}
    for source in column:
        parent = source.parent or source.name
        ends = [
            boxes[edge.child].y + edge.offset
            for edge in edges
            if edge.parent == parent and where[edge.child] == number + 1
        ]
        ends += [box.middle for box in beyond if box.parent == parent]
        if ends:
            lines[parent] = (source, ends)
    return lines


def _tracks(lines: Mapping[str, tuple[Box, list[float]]]) -> tuple[str, ...]:
    """The order of the tracks with the fewest crossings."""
    heights = {parent: (source.middle, ends) for parent, (source, ends) in lines.items()}

    def crossings(order: tuple[str, ...]) -> int:
        count = 0
        for at, left in enumerate(order):
            for right in order[at + 1 :]:
                (from_left, to_left), (from_right, to_right) = heights[left], heights[right]
                count += min(from_left, *to_left) <= from_right <= max(from_left, *to_left)
                count += sum(min(from_right, *to_right) <= end <= max(from_right, *to_right) for end in to_left)
        return count

    few = 7
    return min(permutations(heights), key=crossings) if len(heights) <= few else tuple(heights)
