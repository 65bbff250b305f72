"""Policy expressions as the trees Postgres keeps (pg_node_tree): their text does not show what is evaluated per row."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(r"[{}()\[\]]|(?:\\.|[^\s{}()\[\]\\])+", re.DOTALL)
SCALAR = "4"  # subLinkType of `(select …)` where one value is expected


@dataclass
class Node:
    kind: str
    fields: dict[str, list["Node | str"]] = field(default_factory=dict)

    def atom(self, name: str) -> str:
        value = self.fields[name][0]
        assert isinstance(value, str)
        return value

    def children(self) -> Iterator["Node"]:
        for values in self.fields.values():
            yield from (value for value in values if isinstance(value, Node))

    def walk(self, *, into_selects: bool = True) -> Iterator["Node"]:
        """Give this node and all below; without `into_selects` a sub-select is given but not entered."""
        yield self
        if self.kind == "SUBLINK" and not into_selects:
            return
        for child in self.children():
            yield from child.walk(into_selects=into_selects)


def parse(text: str) -> Node:
    tokens = _TOKEN.findall(text)
    node, end = _node(tokens, 0)
    assert end == len(tokens)
    return node


def _node(tokens: list[str], at: int) -> tuple[Node, int]:
    assert tokens[at] == "{"
    node, at, name = Node(tokens[at + 1]), at + 2, ""
    while tokens[at] != "}":
        token = tokens[at]
        if token == "{":
            child, at = _node(tokens, at)
            node.fields[name].append(child)
            continue
        # Lists are flattened into their field; `[` begins the bytes of a constant.
        if token.startswith(":"):
            name = token[1:]
            node.fields[name] = []
        elif token not in "()[]":
            node.fields[name].append(token)
        at += 1
    return node, at + 1
