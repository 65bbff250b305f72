"""Media types: what a client accepts and sends, and which handler makes the body."""

import re
from typing import NamedTuple

from local.api.rest.errors import RestError

JSON, CSV, TEXT, XML = "application/json", "text/csv", "text/plain", "text/xml"
GEO_JSON, OPEN_API = "application/geo+json", "application/openapi+json"
FORM, OCTETS, ANY = "application/x-www-form-urlencoded", "application/octet-stream", "*/*"
KNOWN = (JSON, GEO_JSON, CSV, TEXT, XML, OPEN_API, FORM, OCTETS, ANY)
OBJECT, OBJECT_STRIPPED = "application/vnd.pgrst.object+json", "application/vnd.pgrst.object+json;nulls=stripped"
ARRAY_STRIPPED = "application/vnd.pgrst.array+json;nulls=stripped"
SINGULAR = (OBJECT, OBJECT_STRIPPED)
WITH_CHARSET = {*KNOWN, *SINGULAR, ARRAY_STRIPPED} - {OCTETS}
MOST_TYPES = 200  # of one Accept header
PLAN_OPTIONS = ("analyze", "verbose", "settings", "buffers", "wal")

TYPE = re.compile(r"([A-Za-z0-9.*]+)/([A-Za-z0-9.*+-]+)")
PARAMETER = re.compile(r'\s*;\s*([A-Za-z0-9-]+)\s*=\s*(?:"([^"]*)"|([A-Za-z0-9|-]+))')
QUALITY = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Handler(NamedTuple):
    """How rows become a body: json, object, csv, geojson, none; or custom, with the function and its argument."""

    kind: str
    strip: bool = False
    function: tuple[str, ...] | None = None
    target: tuple[str, ...] | None = None


class Chosen(NamedTuple):
    handler: Handler
    media: str


# (relation, or None for any; media type) → handler and the type of the response.
Handlers = dict[tuple[tuple[str, ...] | None, str], Chosen]

BUILT_IN: Handlers = {
    (None, ANY): Chosen(Handler("json"), JSON),
    (None, JSON): Chosen(Handler("json"), JSON),
    (None, CSV): Chosen(Handler("csv"), CSV),
    (None, GEO_JSON): Chosen(Handler("geojson"), GEO_JSON),
}
NO_BODY = Handler("none")


def canonical(text: str) -> str:
    """One name for every way to write a media type."""
    found = TYPE.match(text)
    if not found:
        return text
    name = found[0].lower()
    parameters: dict[str, str] = {}
    at = found.end()
    while more := PARAMETER.match(text, at):
        parameters[more[1].lower()] = more[2] if more[2] is not None else more[3]
        at = more.end()
    stripped = parameters.get("nulls") == "stripped"
    if name in KNOWN:
        return name
    if name in {OBJECT, "application/vnd.pgrst.object"}:
        return OBJECT_STRIPPED if stripped else OBJECT
    if name in {"application/vnd.pgrst.array+json", "application/vnd.pgrst.array"}:
        return ARRAY_STRIPPED if stripped else JSON
    if name in {f"application/vnd.pgrst.plan{suffix}" for suffix in ("", "+text", "+json")}:
        return _plan(name, parameters)
    return text


def _plan(name: str, parameters: dict[str, str]) -> str:
    requested = parameters.get("options", "").split("|")
    options = "|".join(option for option in PLAN_OPTIONS if option in requested)
    kind = "json" if name.endswith("+json") else "text"
    about = canonical(parameters.get("for", JSON))
    return f'application/vnd.pgrst.plan+{kind}; for="{about}"' + (f"; options={options}" if options else "")


def content_type(media: str) -> str:
    return f"{media}; charset=utf-8" if media in WITH_CHARSET else media


def accepted(header: str | None) -> list[str]:
    """The media types of an Accept header, the preferred first."""
    if header is None:
        return [ANY]
    ranked = []
    for part in header.replace(" ", "").split(",", MOST_TYPES)[:MOST_TYPES]:
        name, _, rest = part.partition(";q=")
        quality = QUALITY.match(rest)
        # Of the same quality, the one with more parameters and fewer wildcards.
        ranked.append((float(quality[0]) if quality else 1.0, name.count(";") - name.count("*"), name))
    return [canonical(name) for *_, name in sorted(ranked, key=lambda each: (-each[0], -each[1]))]


def negotiate(accepts: list[str], handlers: Handlers, relation: tuple[str, ...], *, whole: bool) -> Chosen:
    """The first accepted type that can be made; a handler of the relation needs its whole rows."""
    for media in accepts:
        if media in SINGULAR:
            return Chosen(Handler("object", strip=media == OBJECT_STRIPPED), media)
        if media == ARRAY_STRIPPED:
            return Chosen(Handler("json", strip=True), media)
        candidates = [(relation, ANY), (relation, media)] if whole else []
        for key in (*candidates, (None, media)):
            if key in handlers:
                return handlers[key]
    raise not_available(accepts)


def not_available(accepts: list[str]) -> RestError:
    return RestError(406, "PGRST107", f"None of these media types are available: {', '.join(accepts)}")
