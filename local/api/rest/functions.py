"""Which overload of a function a call means, and its arguments."""

from collections.abc import Iterable
from heapq import nsmallest

from local.api.rest import media
from local.api.rest.catalog import Catalog, Function
from local.api.rest.errors import RestError
from local.api.rest.fuzzy import FuzzySet
from local.api.rest.relationships import Name

# The type of a single unnamed parameter that takes a whole body, by the media type of the body.
WHOLE = {media.JSON: ("json", "jsonb"), media.TEXT: ("text",), media.XML: ("xml",), media.OCTETS: ("bytea",)}
LISTED_LENGTH = 10_000  # of the names of arguments in an error
ONLY_WHOLE = {media.TEXT: "text", media.XML: "xml", media.OCTETS: "bytea"}


def choose_function(catalog: Catalog, name: Name, keys: frozenset[str], content: str, *, post: bool) -> Function:
    """By the names of the arguments; else one with a single unnamed parameter for the body."""
    overloads = catalog.functions.get(name, [])
    named = [each for each in overloads if _takes(each, keys, content, post=post)]
    whole = [each for each in overloads if each not in named and post and _takes_body(each, content)]
    found = named or whole
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(found)
    raise _unknown(catalog, name, nsmallest(LISTED_LENGTH // 3, keys), content, overloads, post=post)


def _takes(function: Function, keys: frozenset[str], content: str, *, post: bool) -> bool:
    if not function.parameters:
        return not keys and not (post and content in ONLY_WHOLE)
    required = {each.name for each in function.parameters if each.required}
    optional = {each.name for each in function.parameters if not each.required}
    return len(keys) <= len(function.parameters) and keys - optional == required


def _takes_body(function: Function, content: str) -> bool:
    parameters = function.parameters
    return len(parameters) == 1 and not parameters[0].name and parameters[0].type in WHOLE.get(content, ())


def arguments_of(function: Function, pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Of a repeated argument the last one counts; those of a variadic one are a list."""
    variadic = {each.name for each in function.parameters if each.variadic}
    found: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name in variadic:
            listed = found.setdefault(name, [])
            if isinstance(listed, list):
                listed.append(value)
        else:
            found[name] = value
    return found


def _ambiguous(found: list[Function]) -> RestError:
    listed = ", ".join(
        f"{'.'.join(each.name)}({', '.join(f'{p.name} => {p.type}' for p in each.parameters)})" for each in found
    )
    return RestError(
        300,
        "PGRST203",
        f"Could not choose the best candidate function between: {listed}",
        None,
        "Try renaming the parameters or the function itself in the database so function overloading can be resolved",
    )


def _unknown(
    catalog: Catalog, name: Name, keys: list[str], content: str, overloads: list[Function], *, post: bool
) -> RestError:
    called, listed = ".".join(name), ", ".join(keys)
    if len(listed) > LISTED_LENGTH:
        listed = f"{listed[:LISTED_LENGTH]}…"
    only_whole = post and content in ONLY_WHOLE
    shown = "" if only_whole else f"({listed})" if keys else " without parameters"
    if only_whole:
        searched = f" with a single unnamed {ONLY_WHOLE[content]} parameter"
    else:
        searched = f" with parameter{'s' if len(keys) > 1 else ''} {listed}" if keys else " without parameters"
        if post and content == media.JSON:
            searched += " or with a single unnamed json/jsonb parameter"
    return RestError(
        404,
        "PGRST202",
        f"Could not find the function {called}{shown} in the schema cache",
        f"Searched for the function {called}{searched}, but no matches were found in the schema cache.",
        None if only_whole else _suggestion(catalog, name, listed, overloads),
    )


def _suggestion(catalog: Catalog, name: Name, listed: str, overloads: list[Function]) -> str | None:
    schema = name[0]
    if overloads:
        signatures = [f"({', '.join(sorted(p.name for p in each.parameters))})" for each in overloads]
        near = FuzzySet(signatures).nearest(f"({listed})")
        near = f"{name[1]}{near}" if near else None
    else:
        near = FuzzySet(known for within, known in catalog.functions if within == schema).nearest(name[1], 0.75)
    return f"Perhaps you meant to call the function {schema}.{near}" if near else None
