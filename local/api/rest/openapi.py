"""The data API described as OpenAPI 2.0, from the schema cache; comments in the database become descriptions."""

import re
from typing import Any

from local.api.rest.catalog import Catalog, Function, Relation

PRIMITIVES = {
    "integer": "integer",
    "bigint": "integer",
    "smallint": "integer",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
    "boolean": "boolean",
}


def describe(catalog: Catalog, schema: str) -> dict[str, Any]:
    relations = [each for (within, _), each in catalog.relations.items() if within == schema]
    paths: dict[str, Any] = {f"/{each.name[1]}": _methods(each) for each in relations}
    for (within, name), overloads in catalog.functions.items():
        if within == schema:
            paths[f"/rpc/{name}"] = {"post": _call(overloads[-1])}
    return {
        "swagger": "2.0",
        "info": {
            "title": "Strive data API",
            "description": "Tables, views and functions, under row-level security.",
            "version": "14",
        },
        "basePath": "/rest/v1",
        "consumes": ["application/json", "text/csv"],
        "produces": ["application/json", "text/csv"],
        "paths": paths,
        "definitions": {each.name[1]: _definition(each) for each in relations},
    }


def _methods(relation: Relation) -> dict[str, Any]:
    name = relation.name[1]
    body = {"name": "body", "in": "body", "schema": {"$ref": f"#/definitions/{name}"}}
    summary = {"summary": relation.description} if relation.description else {}
    plain = {"tags": [name], **summary, "responses": {"200": {"description": "OK"}}}
    return {
        "get": plain,
        "post": {**plain, "parameters": [body]},
        "patch": {**plain, "parameters": [body]},
        "delete": plain,
    }


def _call(function: Function) -> dict[str, Any]:
    required = [each.name for each in function.parameters if each.required]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: _typed(each.type) for each in function.parameters},
    }
    return {
        "tags": [f"(rpc) {function.name[1]}"],
        **({"summary": function.description} if function.description else {}),
        "parameters": [{"name": "args", "in": "body", "schema": schema | ({"required": required} if required else {})}],
        "responses": {"200": {"description": "OK"}},
    }


def _definition(relation: Relation) -> dict[str, Any]:
    columns = relation.columns.values()
    required = [each.name for each in columns if each.required and each.default is None]
    return {
        "type": "object",
        **({"description": relation.description} if relation.description else {}),
        **({"required": required} if required else {}),
        "properties": {
            each.name: {
                **_typed(each.type),
                **({"enum": each.values} if each.values else {}),
                **({"description": each.description} if each.description else {}),
            }
            for each in columns
        },
    }


def _typed(name: str) -> dict[str, Any]:
    if name.endswith("[]"):
        return {"type": "array", "items": _typed(name.removesuffix("[]")), "format": name}
    if name in {"json", "jsonb"}:
        return {"format": name}
    return {"type": PRIMITIVES.get(re.sub(r"\(.*\)", "", name), "string"), "format": name}
