"""What a request of the data API carries."""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from local.api.rest import media, ranges
from local.api.rest.catalog import Catalog
from local.api.rest.errors import RestError
from local.api.rest.preferences import Preferences, read_preferences
from local.api.rest.query import Query
from local.api.rest.ranges import ALL, Range
from local.api.settings import RestSettings
from local.api.tokens import Claims, role_of

READS = {"GET", "HEAD"}
PROFILE_OF_WRITES = {"POST", "PATCH", "PUT", "DELETE"}


@dataclass
class Incoming:
    """One request, read but not yet planned."""

    method: str
    path: str
    headers: dict[str, str]
    cookies: dict[str, str]
    accepts: list[str]
    content: str
    body: bytes
    preferences: Preferences
    claims: Claims
    role: str
    signed_in: bool
    schema: str
    negotiated: bool
    catalog: Catalog
    weight: int = 0  # how much work the request takes, in bytes of a body

    @property
    def reads(self) -> bool:
        return self.method in READS

    def content_headers(self, chosen: str) -> dict[str, str]:
        return {"content-type": media.content_type(chosen), **self.profile}

    @property
    def profile(self) -> dict[str, str]:
        return {"content-profile": self.schema} if self.negotiated else {}


def read_request(request: Request, claims: Claims, body: bytes, catalog: Catalog, settings: RestSettings) -> Incoming:
    headers = {
        name.decode("latin-1").lower(): value.decode(errors="replace") for name, value in reversed(request.headers.raw)
    }
    cookies = headers.pop("cookie", None)
    role = role_of(claims, settings.anonymous)
    profile = headers.get("content-profile" if request.method in PROFILE_OF_WRITES else "accept-profile")
    if profile is not None and profile not in catalog.schemas:
        hint = f"Only the following schemas are exposed: {', '.join(catalog.schemas)}"
        raise RestError(406, "PGRST106", f"Invalid schema: {profile}", None, hint)
    return Incoming(
        method=request.method,
        path=raw_path(request),
        headers=headers,
        cookies=_cookies(cookies) if cookies else {},
        accepts=media.accepted(headers.get("accept")),
        content=media.canonical(headers["content-type"]) if "content-type" in headers else media.JSON,
        body=body,
        preferences=read_preferences(
            request.headers.getlist("prefer"), catalog.timezones, tx=settings.tx_end.endswith("allow-override")
        ),
        claims=claims,
        role=role,
        signed_in=role != settings.anonymous,
        schema=profile or catalog.schemas[0],
        negotiated=profile is not None or len(catalog.schemas) > 1,
        catalog=catalog,
    )


def raw_path(request: Request) -> str:
    root = request.scope.get("root_path", "")
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1").partition("?")[0].removeprefix(root) or "/"


def path_segments(request: Request) -> list[str]:
    path = raw_path(request).removeprefix("/")
    return [unquote_to_bytes(part).decode(errors="replace") for part in path.split("/")] if path else []


def query_text(request: Request) -> str:
    text: bytes = request.scope["query_string"]
    return text.decode(errors="replace")


def _cookies(header: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in header.removesuffix(";").split(";"))
    return {name.lstrip(" "): value for name, _, value in pairs}


def top_range(incoming: Incoming, query: Query) -> Range:
    header = ranges.requested(incoming.headers.get("range")) if incoming.method == "GET" else ALL
    return ranges.top_level(query.ranges.get("limit", ALL), header, put=incoming.method == "PUT")
