"""The environment of the API, read once; a missing or malformed value stops the process with its name."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SIZE = re.compile(r"(\d+)\s*(|B|[KMG]i?B)\Z", re.IGNORECASE)
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
HOOK = re.compile(r"pg-functions://[^/]+/([^/]+)/([^/]+)\Z")
TX_ENDS = ("commit", "commit-allow-override", "rollback", "rollback-allow-override")
KEY_NAMES = ("publishable_key", "secret_key", "jwt_secret", "jwk")


class SettingsError(Exception):
    """A variable is missing or malformed; the message names it, what was found and what is accepted."""


@dataclass(frozen=True)
class RestSettings:
    """Of the data API. `hosted` turns on what hosted projects do and a bare PostgREST doesn't: see README.md."""

    database_url: str
    schemas: tuple[str, ...] = ("public",)
    max_rows: int | None = 1000
    extra_search_path: tuple[str, ...] = ("public",)
    anonymous: str = "anon"
    hosted: bool = True
    tx_end: str = "commit"


@dataclass(frozen=True)
class Hook:
    schema: str
    name: str


@dataclass(frozen=True)
class Settings:
    host: str
    port: int
    api_url: str
    database_url: str
    pool_size: int
    functions_url: str | None
    postgrest_url: str | None
    stripe_url: str | None
    smtp_port: int | None
    storage_directory: Path
    file_size_limit: int
    rest: RestSettings
    site_url: str
    redirect_urls: tuple[str, ...]
    access_token_hook: Hook | None
    jwt_expiry: int
    password_length: int
    keys: dict[str, Any] = field(repr=False)


class Environment:
    """Typed access to the variables; each method names the variable in its error."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def required(self, name: str) -> str:
        if not self.values.get(name):
            raise SettingsError(f"{name} is not set.")
        return self.values[name]

    def number(self, name: str, otherwise: int) -> int:
        text = self.values.get(name, str(otherwise))
        if not re.fullmatch(r"\d{1,18}", text):
            raise SettingsError(f"{name} is '{text}', not a whole number.")
        return int(text)

    def size(self, name: str, otherwise: str) -> int:
        text = self.values.get(name, otherwise)
        found = SIZE.match(text.strip())
        if not found:
            raise SettingsError(f"{name} is '{text}', not a size such as 50MiB.")
        return int(found[1]) * UNITS[found[2].upper()]

    def url(self, name: str, otherwise: str | None = None) -> str | None:
        text = self.values.get(name, otherwise)
        if text is not None and not urlsplit(text).scheme:
            raise SettingsError(f"{name} is '{text}', not a URL.")
        return text.rstrip("/") if text else None

    def listed(self, name: str, otherwise: str = "") -> tuple[str, ...]:
        return tuple(each.strip() for each in self.values.get(name, otherwise).split(",") if each.strip())


def read_rest_settings(values: Mapping[str, str], *, hosted: bool) -> RestSettings:
    environment = Environment(values)
    tx_end = values.get("DB_TX_END", "commit" if hosted else "commit-allow-override")
    if tx_end not in TX_ENDS:
        raise SettingsError(f"DB_TX_END is '{tx_end}', not one of {', '.join(TX_ENDS)}.")
    return RestSettings(
        database_url=environment.required("DB_URL"),
        schemas=environment.listed("DB_SCHEMAS", "public"),
        max_rows=environment.number("DB_MAX_ROWS", 1000),
        extra_search_path=environment.listed("DB_EXTRA_SEARCH_PATH", "public"),
        hosted=hosted,
        tx_end=tx_end,
    )


def read_settings(values: Mapping[str, str]) -> Settings:
    environment = Environment(values)
    host, port = values.get("HOST", "127.0.0.1"), environment.number("PORT", 54321)
    return Settings(
        host=host,
        port=port,
        api_url=environment.url("API_URL", f"http://{host}:{port}") or "",
        database_url=environment.required("DB_URL"),
        pool_size=environment.number("DB_POOL_SIZE", 10),
        functions_url=environment.url("FUNCTIONS_URL"),
        postgrest_url=environment.url("POSTGREST_URL"),
        stripe_url=environment.url("STRIPE_URL"),
        smtp_port=environment.number("SMTP_PORT", 0) or None,
        storage_directory=Path(environment.required("STORAGE_DIR")),
        file_size_limit=environment.size("STORAGE_FILE_SIZE_LIMIT", "50MiB"),
        rest=read_rest_settings(values, hosted=True),
        site_url=environment.url("SITE_URL", "http://127.0.0.1:3000") or "",
        redirect_urls=environment.listed("REDIRECT_URLS"),
        access_token_hook=_hook(values.get("ACCESS_TOKEN_HOOK", "")),
        jwt_expiry=environment.number("JWT_EXPIRY", 3600),
        password_length=environment.number("PASSWORD_MIN_LENGTH", 6),
        keys=read_keys(Path(environment.required("KEYS_FILE"))),
    )


def _hook(uri: str) -> Hook | None:
    """Written as in config.toml: pg-functions://postgres/<schema>/<function>."""
    found = HOOK.match(uri)
    if uri and not found:
        raise SettingsError(
            f"ACCESS_TOKEN_HOOK is '{uri}', not of the form pg-functions://postgres/<schema>/<function>."
        )
    return Hook(found[1], found[2]) if found else None


def read_keys(file: Path) -> dict[str, Any]:
    keys: dict[str, Any] = json.loads(file.read_text())
    for name in KEY_NAMES:
        if not keys.get(name):
            raise SettingsError(f"{file} (KEYS_FILE) has no {name}.")
    return keys
