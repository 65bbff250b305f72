"""How relations refer to each other, and which relationship an embedded resource means.

A foreign key is one relationship of its table to the other and one back; a view that shows all its columns has the same
ones. A table whose primary key contains two foreign keys joins what they refer to. A function of one row that returns
another relation's rows is a computed relationship, which outranks the others of its name.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from local.api.rest.errors import RestError
from local.api.rest.fuzzy import FuzzySet

Name = tuple[str, ...]  # schema, name
Pairs = tuple[tuple[str, str], ...]

TO_ONE = {"many-to-one", "one-to-one"}


class ForeignKey(NamedTuple):
    name: str
    source: int
    target: int
    source_name: Name
    target_name: Name
    columns: tuple[tuple[int, str], ...]
    references: tuple[tuple[int, str], ...]
    one_to_one: bool


class Junction(NamedTuple):
    table: Name
    near: str
    far: str
    near_columns: Pairs  # column of the source, column of the junction
    far_columns: Pairs  # column of the target, column of the junction


@dataclass(frozen=True)
class Relationship:
    source: Name
    target: Name
    cardinality: str  # many-to-one, one-to-one, one-to-many, many-to-many, computed
    constraint: str = ""
    columns: Pairs = ()  # column of the source, column of the target
    target_is_view: bool = False
    source_is_view: bool = False
    back: bool = False  # against the direction of its foreign key
    junction: Junction | None = None
    function: Name | None = None
    single: bool = False

    @property
    def to_one(self) -> bool:
        return self.cardinality in TO_ONE or self.single

    @property
    def self_reference(self) -> bool:
        return self.source == self.target

    def inverse(self) -> "Relationship":
        return Relationship(
            source=self.target,
            target=self.source,
            cardinality="one-to-one" if self.cardinality == "one-to-one" else "one-to-many",
            constraint=self.constraint,
            columns=tuple((theirs, ours) for ours, theirs in self.columns),
            target_is_view=self.source_is_view,
            source_is_view=self.target_is_view,
            back=True,
        )


# Finding all ----------------------------------------------------------------------------------------------------------


def find_all(
    foreign_keys: Sequence[ForeignKey],
    view_columns: Mapping[int, Mapping[tuple[int, int], list[str]]],
    view_names: Mapping[int, Name],
    keys: Mapping[Name, Sequence[str]],
    computed: Sequence[Mapping[str, Any]],
    schemas: Sequence[str],
) -> dict[tuple[Name, str], list[Relationship]]:
    """By relation and by the schema of what it refers to; only exposed ones."""
    forth = [each for key in foreign_keys for each in _with_views(key, view_columns, view_names)]
    plain = [*forth, *(each.inverse() for each in forth), *_junctions(forth, keys)]
    grouped: dict[tuple[Name, Name], list[Relationship]] = defaultdict(list)
    for each in plain:
        grouped[each.source, each.target].append(each)
    for row in computed:
        function: Name = (row["schema"], row["name"])
        source: Name
        target: Name
        source, target = (row["source_schema"], row["source_name"]), (row["target_schema"], row["target_name"])
        # Instead of the ones to a relation of that name.
        grouped[source, function] = [Relationship(source, target, "computed", function=function, single=row["single"])]
    found: dict[tuple[Name, str], list[Relationship]] = defaultdict(list)
    for (source, target), group in grouped.items():
        if source[0] in schemas:
            found[source, target[0]] += [each for each in group if _exposed(each, schemas)]
    for group in found.values():
        group.sort(key=_listing)
    return dict(found)


def _exposed(relationship: Relationship, schemas: Sequence[str]) -> bool:
    junction = relationship.junction
    return relationship.target[0] in schemas and (junction is None or junction.table[0] in schemas)


def _listing(each: Relationship) -> tuple[Any, ...]:
    """The order in which PostgREST lists several."""
    order = {"one-to-many": 0, "many-to-one": 1, "one-to-one": 2, "many-to-many": 3, "computed": 4}
    kind = order[each.cardinality]
    # A computed one is a kind of its own, listed after the others.
    return (
        kind == order["computed"],
        each.function or (),
        each.source,
        each.target,
        each.self_reference,
        kind,
        each.junction or (each.constraint, each.columns, each.back),
    )


def _with_views(
    key: ForeignKey,
    view_columns: Mapping[int, Mapping[tuple[int, int], list[str]]],
    view_names: Mapping[int, Name],
) -> list[Relationship]:
    """The relationship of the key, and those of the views that show its columns on either side."""

    def shown(table: int, columns: tuple[tuple[int, str], ...]) -> list[tuple[Name, tuple[str, ...]]]:
        return [
            (view_names[view], names)
            for view, sources in view_columns.items()
            for names in itertools.product(*(sources.get((table, number), []) for number, _ in columns))
        ]

    own = (key.source_name, tuple(name for _, name in key.columns), False)
    other = (key.target_name, tuple(name for _, name in key.references), False)
    sources = [own, *((view, names, True) for view, names in shown(key.source, key.columns))]
    targets = [other, *((view, names, True) for view, names in shown(key.target, key.references))]
    return [
        Relationship(
            source=source,
            target=target,
            cardinality="one-to-one" if key.one_to_one else "many-to-one",
            constraint=key.name,
            columns=tuple(zip(ours, theirs, strict=True)),
            source_is_view=source_view,
            target_is_view=target_view,
        )
        for source, ours, source_view in sources
        for target, theirs, target_view in targets
    ]


def _junctions(forth: Sequence[Relationship], keys: Mapping[Name, Sequence[str]]) -> list[Relationship]:
    by_source: dict[Name, list[Relationship]] = defaultdict(list)
    for each in forth:
        if each.cardinality == "many-to-one":
            by_source[each.source].append(each)
    found = []
    for table, group in by_source.items():
        key = set(keys.get(table, ()))
        for near, far in itertools.permutations(group, 2):
            columns = {ours for ours, _ in (*near.columns, *far.columns)}
            if near.constraint == far.constraint or not columns <= key:
                continue
            junction = Junction(
                table,
                near.constraint,
                far.constraint,
                tuple((theirs, ours) for ours, theirs in near.columns),
                tuple((theirs, ours) for ours, theirs in far.columns),
            )
            found.append(
                Relationship(
                    source=near.target,
                    target=far.target,
                    cardinality="many-to-many",
                    source_is_view=near.target_is_view,
                    target_is_view=far.target_is_view,
                    junction=junction,
                )
            )
    return found


# Choosing one ---------------------------------------------------------------------------------------------------------


def choose(
    known: Mapping[tuple[Name, str], list[Relationship]], schema: str, origin: str, target: str, hint: str | None
) -> Relationship:
    """The one that `target!hint(…)` means in a request for `origin`; none or several are an error."""
    candidates = known.get(((schema, origin), schema), [])
    found = [each for each in candidates if _means(each, target, hint)]
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(origin, target, found)
    raise _missing(known, schema, origin, target, hint)


def _means(each: Relationship, target: str, hint: str | None) -> bool:
    """The precedence that PostgREST documents.

    The target is the name of a computed relationship, a relation, a foreign key, or its single column; the last two not
    for views. The hint is a foreign key, its single column on either side, or a junction. Of the two relationships of
    a relation to itself, its name means the one to many, a column's name the one to one.
    """
    if each.function:
        return target == each.function[1]
    names_relation = target == each.target[1]
    ours, theirs = each.columns[0] if len(each.columns) == 1 else (None, None)
    if each.self_reference:
        if hint is not None:
            return names_relation and each.cardinality == "one-to-many" and hint == theirs
        to_many = names_relation and each.cardinality == "one-to-many"
        return to_many or (each.cardinality == "many-to-one" and target == ours)
    constraint = each.constraint or None
    if hint is None:
        return names_relation or (target in {constraint, ours} and not each.target_is_view)
    junction = each.junction.table[1] if each.junction else None
    return names_relation and hint in {constraint, ours, theirs, junction}


def _missing(
    known: Mapping[tuple[Name, str], list[Relationship]], schema: str, origin: str, target: str, hint: str | None
) -> RestError:
    using = f" using the hint '{hint}'" if hint is not None else ""
    details = (
        f"Searched for a foreign key relationship between '{origin}' and '{target}'{using} in the schema '{schema}', "
        "but no matches were found."
    )
    return RestError(
        400,
        "PGRST200",
        f"Could not find a relationship between '{origin}' and '{target}' in the schema cache",
        details,
        _suggestion(known, schema, origin, target),
    )


def _suggestion(
    known: Mapping[tuple[Name, str], list[Relationship]], schema: str, origin: str, target: str
) -> str | None:
    candidates = known.get(((schema, origin), schema))
    if candidates is None:
        names = FuzzySet(name[1] for name, within in known if within == schema)
        near = names.nearest(origin)
        return f"Perhaps you meant '{near}' instead of '{origin}'." if near else None
    matches = FuzzySet(each.target[1] for each in candidates).matches(target)
    # What is found as it is written isn't suggested: then the hint is wrong.
    near = next((name for score, name in matches if score < 1), None)
    return f"Perhaps you meant '{near}' instead of '{target}'." if near else None


def _ambiguous(origin: str, target: str, found: list[Relationship]) -> RestError:
    tries = ", ".join(
        f"'{each.target[1]}!{each.junction.table[1] if each.junction else each.constraint}'" for each in found
    )
    return RestError(
        300,
        "PGRST201",
        f"Could not embed because more than one relationship was found for '{origin}' and '{target}'",
        [_described(each) for each in found],
        f"Try changing '{target}' to one of the following: {tries}. "
        "Find the desired relationship in the 'details' key.",
    )


def _described(each: Relationship) -> dict[str, str]:
    def listed(columns: Sequence[str]) -> str:
        return f"({', '.join(columns)})"

    if each.junction:
        near = listed([column for _, column in each.junction.near_columns])
        far = listed([column for _, column in each.junction.far_columns])
        using = f"{each.junction.near}{near} and {each.junction.far}{far}"
        relationship = f"{each.junction.table[1]} using {using}"
    else:
        ours, theirs = ([pair[side] for pair in each.columns] for side in (0, 1))
        relationship = f"{each.constraint} using {each.source[1]}{listed(ours)} and {each.target[1]}{listed(theirs)}"
    return {
        "cardinality": each.cardinality,
        "embedding": f"{each.source[1]} with {each.target[1]}",
        "relationship": relationship,
    }
