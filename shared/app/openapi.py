"""The OpenAPI 3.1 document, made from the declarations of the functions."""

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from shared.app.function import Function
from shared.schema import JOBS

# The tag of each function: groups of the reference. Jobs have their own; a function that is not listed is in "Other".
DOMAINS = {
    "CRM": "capture-lead import-records record-activity",
    "Dashboard": "dashboard-snapshot",
    "AI Garage": "submit-order",
    "Organizations": "invite-member preview-invitation",
    "Notifications": "unsubscribe mail-webhook calendar answer-invitation",
    "Onboarding": "create-onboarding-session update-onboarding-session get-onboarding-session start-onboarding-payment "
    "complete-onboarding-session",
    "Billing": "create-checkout-session preview-plan-change change-plan cancel-subscription resume-subscription "
    "create-billing-portal-session stripe-webhook",
    "Feature flags": "evaluate-flag record-exposure preview-flag-audience",
    "Integrations": "create-api-key token ingest mcp ask-assistant",
    "Administration": "suspend-user reactivate-user bulk-admin-action impersonate-user export-organization "
    "delete-account",
}
TAGS = {name: domain for domain, names in DOMAINS.items() for name in names.split()}
# Errors that every function may respond with.
COMMON = {
    400: "The request is malformed: its JSON, a header or a value.",
    403: "The caller is suspended, or lacks the role for this.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body has invalid fields, listed in `details`; or a rule forbids it; or the Idempotency-Key was used for"
    " another request.",
    429: "Too many requests of the caller are running; `Retry-After` says when to try again.",
    500: "Something went wrong on our side.",
    503: "The database is busy or unavailable; `Retry-After` says when to try again.",
}
UNAUTHORIZED = "The access token or API key is missing or not valid."
SCHEMES = {
    "user": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's access token."},
    "key": {"type": "http", "scheme": "bearer", "description": "An API key of an organization: `strive_…`."},
    "publishable": {"type": "apiKey", "in": "header", "name": "apikey", "description": "A publishable key."},
    "secret": {"type": "apiKey", "in": "header", "name": "apikey", "description": "A secret key; never in a browser."},
}
ERROR = {
    "type": "object",
    "description": "Every error has this form.",
    "required": ["code", "message", "details", "hint"],
    "properties": {
        "code": {"type": "string", "description": "For programs; docs/errors.md lists all."},
        "message": {"type": "string", "description": "What is wrong."},
        "details": {"description": "What was found; for invalid fields an array of {field, problem, type}."},
        "hint": {"type": ["string", "null"], "description": "What to do."},
    },
}
REFUSAL = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
HEADERS = {
    "x-request-id": {"description": "Names this request in our logs.", "schema": {"type": "string"}},
}
REPLAYED = {
    "idempotency-replayed": {
        "description": "`true` if this is the response to an earlier request with the same key.",
        "schema": {"type": "string"},
    }
}
ORGANIZATION = {
    "name": "x-org-id",
    "in": "header",
    "description": "The organization to act in; without it the one in the token, else the first one joined.",
    "schema": {"type": "string", "format": "uuid"},
}
ONCE = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Repeat it with the same body, and the request has one effect and one response, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
}

# The catalog of events, of `make schema`.
EVENTS = Path(__file__).with_name("events.json")
SIGNED = {
    name: {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
    for name, text in (
        ("webhook-id", "The delivery; a retry or a replay repeats it."),
        ("webhook-timestamp", "When it was sent, in seconds since 1970."),
        ("webhook-signature", "`v1,` and an HMAC-SHA256 of id, timestamp and body, by Standard Webhooks."),
    )
}
RECEIVED = {
    "2XX": {"description": "The event has arrived. Any other response is a failure, and is tried again."},
    "410": {"description": "The receiver is gone: the webhook is switched off."},
}


def document(url: str, functions: Iterable[Function]) -> dict[str, Any]:
    functions = list({each.name: each for function in functions for each in (function, *function.children)}.values())
    schemas, definitions = TypeAdapter.json_schemas(
        [(f.name, "validation", f.request) for f in functions]
        + [(f.name, "serialization", f.response) for f in functions],
        ref_template="#/components/schemas/{model}",
    )
    events = json.loads(EVENTS.read_text())
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Strive functions",
            "version": "1",
            "description": "What a client must not be trusted to do by itself. Tables are at `/rest/v1`.",
        },
        "servers": [{"url": f"{url}/functions/v1"}],
        "paths": {
            f"/{function.name}": {
                "post": _operation(
                    function, schemas[function.name, "validation"], schemas[function.name, "serialization"]
                )
            }
            for function in functions
        },
        "webhooks": {kind: {"post": _delivery(kind, event["description"])} for kind, event in events.items()},
        "components": {
            "securitySchemes": SCHEMES,
            "parameters": SIGNED,
            "responses": {f"Delivery{status}": response for status, response in RECEIVED.items()},
            "schemas": {
                "Error": ERROR,
                **definitions.get("$defs", {}),
                **{_event_name(kind): _payload(kind, **event) for kind, event in events.items()},
                "WebhookEvent": _any_of(events),
            },
        },
    }


def _event_name(kind: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"[._]", kind)) + "Event"


def _any_of(kinds: Iterable[str]) -> dict[str, Any]:
    schemas = {kind: f"#/components/schemas/{_event_name(kind)}" for kind in kinds}
    return {
        "description": "The payload of any event that webhooks get.",
        "oneOf": [{"$ref": schema} for schema in schemas.values()],
        "discriminator": {"propertyName": "type", "mapping": schemas},
    }


def _delivery(kind: str, description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{_event_name(kind)}"}
    return {
        "tags": ["Webhooks"],
        "operationId": kind,
        "summary": description,
        "security": [],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in SIGNED],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"$ref": f"#/components/responses/Delivery{status}"} for status in RECEIVED},
    }


def _payload(kind: str, description: str, subjects: list[str] | None, details: dict[str, Any]) -> dict[str, Any]:
    """Version 1. A receiver accepts properties that are added later."""
    subject: dict[str, Any] = {"type": "string", "enum": subjects} if subjects else {"type": ["string", "null"]}
    return _object(
        {
            "type": {"const": kind, "type": "string"},
            "version": {"const": 1, "type": "integer"},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "organization_id": {"type": "string", "format": "uuid"},
            "data": _object(
                {
                    "subject": _object({"type": subject, "id": {"type": ["string", "null"], "format": "uuid"}}),
                    "details": {"type": "object", "properties": details},
                }
            ),
        }
    ) | {"description": f"{description}."}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _content_type(function: Function) -> str:
    if function.content_type:
        return function.content_type.partition(";")[0]
    return "application/x-ndjson" if function.upload else "text/event-stream" if function.stream else "application/json"


def _operation(function: Function, request: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    errors = COMMON | ({401: UNAUTHORIZED} if function.auth else {}) | dict(function.errors)
    kinds = [mode.partition(":")[0] for mode in function.auth] + (["key"] if function.scope else [])
    places = re.findall(r"\{(\w+)\}", function.name)
    return {
        "tags": [_tag(function)],
        "operationId": re.sub(r"\W+", "-", function.name).strip("-"),
        "summary": function.summary,
        "description": function.description,
        "security": [{} if kind == "anyone" else {kind: []} for kind in dict.fromkeys(kinds)],
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in places),
            *([ORGANIZATION] if "user" in kinds else []),
            *([ONCE] if function.idempotent else []),
            *_query(function),
        ],
        "requestBody": {
            "required": True,
            "content": {function.upload: {}} if function.upload else {"application/json": {"schema": request}},
        },
        "responses": {
            str(function.status): {
                "description": HTTPStatus(function.status).phrase,
                "headers": HEADERS | (REPLAYED if function.idempotent and not function.upload else {}),
                "content": {_content_type(function): {"schema": response}},
            },
            **{
                str(status): {
                    "description": text,
                    "headers": HEADERS,
                    **(REFUSAL if status >= HTTPStatus.BAD_REQUEST else {}),
                }
                for status, text in sorted(errors.items())
            },
        },
    }


def _tag(function: Function) -> str:
    name = function.name.partition("/")[0]
    return TAGS.get(name) or ("Jobs" if name.replace("-", "_") in JOBS else "Other")


def _query(function: Function) -> list[dict[str, Any]]:
    """The parameters of a function whose body is a file."""
    if not function.upload:
        return []
    schema = function.request.json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": each}
        for name, each in schema["properties"].items()
    ]
