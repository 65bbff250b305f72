"""From the parsed query to a plan: which relations are read, how they are joined, what each contributes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from local.api.rest.catalog import Catalog, Column
from local.api.rest.errors import RestError
from local.api.rest.grammar import Field, Filter, Logic, OrderTerm, Path, SelectField, SelectItem
from local.api.rest.parsec import too_large
from local.api.rest.query import Query, range_path
from local.api.rest.ranges import ALL, NOTHING, Range
from local.api.rest.relationships import Name, Relationship, choose

COLUMN_LIMIT = 1500  # Postgres accepts 1664, with what is embedded
SOURCE = "pgrst_source"  # the rows of a write or of a call


@dataclass(frozen=True)
class Coerced:
    """A field with what is known of its column: whether it is JSON, and the function that formats or parses it."""

    field: Field
    type: str = ""
    is_json: bool = False
    is_searched: bool = False  # by words that must be made of it first: a known column that is no tsvector
    transform: Name | None = None


@dataclass(frozen=True)
class Selected:
    field: Coerced
    alias: str | None = None
    cast: str | None = None

    @property
    def shown(self) -> str:
        return self.alias or self.field.field.name


@dataclass(frozen=True)
class Condition:
    field: Coerced
    filter: Filter


@dataclass(frozen=True)
class NullEmbed:
    """Whether an embedded relation has a row."""

    child: "Node"
    negated: bool


@dataclass(frozen=True)
class Tree:
    negated: bool
    operator: str
    children: "tuple[Where, ...]"


Where = Condition | NullEmbed | Tree


@dataclass(frozen=True)
class Order:
    field: Coerced
    term: OrderTerm
    relation: "Node | None" = None


@dataclass(eq=False)
class Node:
    """One relation of the request; the children are embedded in it."""

    name: str
    relation: Name  # schema and name; no schema for the rows of a write or of a call
    columns: dict[str, Column]
    alias: str | None = None  # in the statement
    given_alias: str | None = None
    hint: str | None = None
    inner: bool = False
    spread: bool = False
    depth: int = 0
    relationship: Relationship | None = None
    parent_alias: Name = ()
    joined_as: str = ""  # the alias of its rows in the parent
    select: list[Selected] = field(default_factory=list)
    items: tuple[SelectItem, ...] = ()
    where: list[Where] = field(default_factory=list)
    order: list[Order] = field(default_factory=list)
    rows: Range = ALL
    children: list["Node"] = field(default_factory=list)

    @property
    def shown(self) -> str:
        return self.given_alias or self.name

    @property
    def spreads_many(self) -> bool:
        return self.spread and self.relationship is not None and not self.relationship.to_one

    @property
    def shows_nothing(self) -> bool:
        """Embedded as (), so only there for conditions."""
        return not self.select and all(child.shows_nothing for child in self.children)

    @property
    def whole(self) -> bool:
        """Whether it is `select=*` without anything embedded."""
        return not self.children and [each.shown for each in self.select] == ["*"]

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.walk()


class Planner:
    """Plans what is read; `source` names the relation whose rows a write or a call returns."""

    def __init__(self, catalog: Catalog, schema: str, query: Query, *, source: bool, write: bool = False) -> None:
        self.catalog, self.schema, self.query, self.source, self.write = catalog, schema, query, source, write

    def plan(self, relation: Name, top: Range) -> Node:
        root = self._node(relation[1], relation, self.query.select, 0)
        self._place(root, top)
        self._join(root, None)
        self._expand(root, within_many=False)
        for node in root.walk():
            node.order = [self._related(node, order) for order in node.order]
        for node in root.walk():
            node.where = [_with_embeds(node, each) for each in node.where]
        if any(_aggregates(node.items) for node in root.walk()):
            raise RestError(400, "PGRST123", "Use of aggregate functions is not allowed")
        if not self.write:
            self._restrict(root)
        return root

    def _place(self, root: Node, top: Range) -> None:
        """Give each node its conditions, order and range; those of the root of a write choose what is written."""
        # From the last to the first: of several names that are not embedded, the error names the last.
        for path, each in reversed(self.query.filters):
            if path or not self.write:
                node = self._at(root, path)
                node.where.insert(0, self._where(node, each))
        for path, terms in reversed(self.query.order):  # of several for one relation the first counts
            node = self._at(root, path)
            node.order = [Order(self._coerced(node, term.field), term) for term in terms]
        if not self.write:
            for name, rows in self.query.ranges.items():
                self._at(root, range_path(name)).rows = rows
            root.rows = top
        for path, logic in reversed(self.query.logic):
            if path or not self.write:
                node = self._at(root, path)
                node.where.insert(0, self._where(node, logic))

    # Nodes ------------------------------------------------------------------------------------------------------------

    def _node(self, name: str, relation: Name, items: tuple[SelectItem, ...], depth: int) -> Node:
        known = self.catalog.relations.get(relation)
        node = Node(name, relation, known.columns if known else {}, depth=depth, items=items)
        for item in items:
            if isinstance(item, SelectField):
                coerced = self._output(self._coerced(node, item.field))
                node.select.append(Selected(coerced, item.alias, item.cast))
                continue
            child = self._node(item.name, (self.schema, item.name), item.children, depth + 1)
            child.given_alias, child.hint, child.inner, child.spread = item.alias, item.hint, item.inner, item.spread
            node.children.append(child)
        if sum(max(1, len(node.columns)) if each.shown == "*" else 1 for each in node.select) > COLUMN_LIMIT:
            raise too_large(f"More than {COLUMN_LIMIT} columns of '{name}' are selected")
        return node

    def _at(self, node: Node, path: Path) -> Node:
        for name in path:
            found = next((each for each in node.children if name in {each.name, each.given_alias}), None)
            if found is None:
                raise _not_embedded(name)
            # As in PostgREST: what a parameter names comes first in CSV and in the search for errors.
            node.children.remove(found)
            node.children.insert(0, found)
            node = found
        return node

    def _coerced(self, node: Node, chosen: Field) -> Coerced:
        column = node.columns.get(chosen.name)
        if column is None:
            return Coerced(chosen)
        return Coerced(chosen, column.type, column.type in {"json", "jsonb"}, column.base != "tsvector")

    def _output(self, coerced: Coerced) -> Coerced:
        transform = self.catalog.representations.get((coerced.type, "json"))
        return replace(coerced, transform=transform) if transform else coerced

    def _where(self, node: Node, given: Filter | Logic) -> Where:
        if isinstance(given, Logic):
            return Tree(given.negated, given.operator, tuple(self._where(node, each) for each in given.children))
        coerced = self._coerced(node, given.field)
        parse = self.catalog.representations.get(("text", coerced.type))
        return Condition(replace(coerced, transform=parse), given)

    def conditions(self, relation: Name) -> list[Where]:
        """Those on the root, for a write."""
        root = self._node(relation[1], relation, (), 0)
        filters: list[Filter | Logic] = [each for path, each in self.query.filters if not path]
        return [self._where(root, each) for each in [*filters, *(each for _, each in self.query.logic)]]

    # Joins ------------------------------------------------------------------------------------------------------------

    def _join(self, node: Node, parent: Node | None) -> None:
        if parent is None:
            if self.source:
                node.alias, node.relation = node.relation[1], ("", SOURCE)
        else:
            # On the first level the root may be known by the alias of a write's or a call's rows.
            origin = parent.alias or parent.relation[1] if node.depth == 1 else parent.relation[1]
            relationship = choose(self.catalog.relationships, self.schema, origin, node.name, node.hint)
            node.relationship = relationship
            node.relation = relationship.target
            node.joined_as = f"{relationship.source[1]}_{node.shown}_{node.depth}"
            node.parent_alias = ("", parent.alias) if parent.alias else relationship.source
            if not relationship.junction:
                node.alias = f"{relationship.target[1]}_{node.depth}"
            known = self.catalog.relations.get(relationship.target)
            node.columns = known.columns if known else {}
        for child in node.children:
            self._join(child, node)

    def _expand(self, node: Node, *, within_many: bool) -> None:
        """Name the columns of `*` where they are formatted one by one; alias what has no name of its own."""
        within_many = within_many or node.spreads_many
        if within_many or any((each.type, "json") in self.catalog.representations for each in node.columns.values()):
            formatted = [self._output(self._coerced(node, Field(name))) for name in node.columns]
            node.select = [
                replace(selected, field=each)
                for selected in node.select
                for each in (formatted if selected.field.field == Field("*") else [selected.field])
            ]
        node.select = [_aliased(selected) for selected in node.select]
        for child in node.children:
            self._expand(child, within_many=within_many)

    def _related(self, node: Node, order: Order) -> Order:
        if order.term.relation is None:
            return order
        child = next((each for each in node.children if each.shown == order.term.relation), None)
        if child is None:
            raise _not_embedded(order.term.relation)
        if child.relationship is None or not child.relationship.to_one:
            raise RestError(
                400,
                "PGRST118",
                f"A related order on '{child.shown}' is not possible",
                f"'{node.relation[1]}' and '{child.shown}' do not form a many-to-one or one-to-one relationship",
            )
        return replace(order, relation=child, field=Coerced(order.term.field))

    def _restrict(self, root: Node) -> None:
        for node in root.walk():
            limit = self.catalog.max_rows
            node.rows = NOTHING if node.rows.last == -1 else node.rows.limited(limit)


def _aggregates(items: tuple[SelectItem, ...]) -> bool:
    return any(isinstance(item, SelectField) and item.aggregate for item in items)


def _not_embedded(name: str) -> RestError:
    return RestError(
        400,
        "PGRST108",
        f"'{name}' is not an embedded resource in this request",
        None,
        f"Verify that '{name}' is included in the 'select' query parameter.",
    )


def _aliased(selected: Selected) -> Selected:
    if selected.alias:
        return selected
    chosen = selected.field.field
    if chosen.path:
        keys = [step.operand for step in chosen.path if not step.is_index]
        return replace(selected, alias=keys[-1] if keys else chosen.name)
    return replace(selected, alias=chosen.name) if selected.field.transform else selected


def _with_embeds(node: Node, where: Where) -> Where:
    """`is.null` on the name of an embedded relation asks whether it has a row."""
    if isinstance(where, Tree):
        return replace(where, children=tuple(_with_embeds(node, each) for each in where.children))
    if not isinstance(where, Condition) or where.filter.field.path:
        return where
    operation = where.filter.operation
    child = next((each for each in node.children if each.shown == where.filter.field.name), None)
    if child and operation.kind == "is" and operation.value == "NULL":
        return NullEmbed(child, operation.negated)
    return where


def needed_columns(node: Node, key: tuple[str, ...]) -> list[str]:
    """The columns that a write or a call must return for what is selected and embedded; `*` is all."""
    names = {each.field.field.name for each in node.select}
    if "*" in names or any(child.relationship and child.relationship.function for child in node.children):
        return ["*"]
    for child in node.children:
        relationship = child.relationship
        if relationship and relationship.junction:
            names |= {ours for ours, _ in relationship.junction.near_columns}
        elif relationship:
            names |= {ours for ours, _ in relationship.columns}
    return sorted(names | set(key))


def filter_names(root: Node) -> set[str]:
    """The names in all conditions."""

    def of(where: Where) -> Iterator[str]:
        if isinstance(where, Tree):
            for each in where.children:
                yield from of(each)
        elif isinstance(where, Condition):
            yield where.filter.field.name
        else:
            yield where.child.joined_as

    return {name for node in root.walk() for where in node.where for name in of(where)}
