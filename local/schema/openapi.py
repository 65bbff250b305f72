"""Reading an OpenAPI document."""

from typing import Any


def follow(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where a reference stands for it."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def forms(document: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The forms that a body may have. With fields, `anyOf` says which are needed."""
    found = follow(document, schema)
    choices = found.get("oneOf") or ([] if "properties" in found else found.get("anyOf", []))
    return [follow(document, choice) for choice in choices] or [found]
