"""The settings: environment variables, parsed and checked once, before the process serves."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from shared.schema import Environment

Value = TypeVar("Value")
# How many proxies of ours a request passes, or their networks.
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...]
DEFAULT_PROXIES: TrustedProxies = 1

# Members that make a JSON Web Key of each type; one with `d` would be a private key.
JWK_MEMBERS = {"EC": {"crv", "x", "y"}, "RSA": {"n", "e"}}
JWT_SECRET_BYTES = 32
KEY_CHARACTERS = 24


class SettingsError(Exception):
    def __init__(self, variable: str, found: str, expected: str) -> None:
        super().__init__(f"{variable}: found {found}; expected {expected}.")


@dataclass(frozen=True)
class SmtpServer:
    host: str
    port: int
    implicit_tls: bool
    user: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """Secrets are left out of the repr, so that no traceback or log line can show them."""

    url: str
    jwks_url: str | None
    jwks: tuple[Mapping[str, Any], ...] = field(repr=False)
    jwt_secret: str | None = field(repr=False)
    signing_key: Mapping[str, Any] | None = field(repr=False)
    publishable_keys: Mapping[str, str] = field(repr=False)
    secret_keys: Mapping[str, str] = field(repr=False)
    database_url: str = field(repr=False)
    database_read_url: str | None = field(repr=False)
    database_connections: int
    flag_environment: str
    stripe_secret_key: str | None = field(repr=False)
    stripe_webhook_secrets: tuple[str, ...] = field(repr=False)
    stripe_api_base: str
    stripe_promotion_codes: bool
    stripe_automatic_tax: bool
    return_origins: tuple[str, ...]
    smtp: SmtpServer | None
    mail_from: tuple[str, str] | None
    mail_webhook_secrets: tuple[str, ...] = field(repr=False)
    app_url: str | None
    functions_url: str
    trusted_proxies: TrustedProxies
    webhook_networks: tuple[IPv4Network | IPv6Network, ...]
    ai_base_url: str | None
    ai_api_key: str | None = field(repr=False)
    ai_model: str | None
    telemetry: bool

    @property
    def issuer(self) -> str:
        return f"{self.url}/auth/v1"

    @property
    def stripe_livemode(self) -> bool:
        """Whether the key is for real money; events of the other mode are quarantined."""
        return "_live_" in (self.stripe_secret_key or "")

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        def optional(name: str, parse: Callable[[str], Value], default: Value, expected: str) -> Value:
            if not (text := environment.get(name, "").strip()):
                return default
            try:
                return parse(text)
            except ValueError as problem:
                raise SettingsError(name, str(problem), expected) from None

        def required(name: str, parse: Callable[[str], str], expected: str) -> str:
            if not (value := optional(name, parse, "", expected)):
                raise SettingsError(name, "nothing", expected)
            return value

        def api_keys(name: str, prefix: str) -> Mapping[str, str]:
            """The plural is an object of named keys and wins over the singular, as on Supabase."""
            one = f"a key that begins with {prefix}"
            several = f'a JSON object of names and keys, e.g. {{"default": "{prefix}…"}}'
            none: Mapping[str, str] = {}
            default = optional(name, lambda text: {"default": _api_key(text, prefix)}, none, one)
            return optional(f"{name}S", lambda text: _named_keys(text, prefix), default, several)

        url = required("SUPABASE_URL", _origin, "the project's address, e.g. https://abc.supabase.co")
        none: tuple[Mapping[str, Any], ...] = ()
        keys = optional("SUPABASE_JWKS", jwks, none, 'a JSON Web Key Set of public keys: {"keys": […]}')
        # With keys in the environment, newer ones are fetched only from an address in the environment.
        usual = None if keys else f"{url}/auth/v1/.well-known/jwks.json"
        jwks_url = optional("SUPABASE_JWKS_URL", _web_address, usual, "an http(s) address")
        no_origins: tuple[str, ...] = ()
        return_origins = optional(
            "RETURN_ORIGINS", _origins, no_origins, "origins separated by commas, e.g. https://app.example.com"
        )
        app_url = optional("APP_URL", _origin, None, "the app's address, e.g. https://app.example.com")
        if environment.get("SMTP_URL", "").strip() and not environment.get("MAIL_FROM", "").strip():
            raise SettingsError("MAIL_FROM", "nothing", "the address that e-mails are sent from, since SMTP_URL is set")
        return cls(
            url=url,
            jwks_url=jwks_url,
            jwks=keys,
            jwt_secret=optional("SUPABASE_JWT_SECRET", _jwt_secret, None, f"at least {JWT_SECRET_BYTES} bytes"),
            signing_key=optional(
                "SUPABASE_SIGNING_KEY",
                _signing_key,
                None,
                "a private JSON Web Key: EC, P-256, with kid and d, that the project trusts",
            ),
            publishable_keys=api_keys("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_"),
            secret_keys=api_keys("SUPABASE_SECRET_KEY", "sb_secret_"),
            database_url=required(
                "SUPABASE_DB_URL", _database_url, "postgresql://strive_functions:<password>@<host>:<port>/postgres"
            ),
            database_read_url=optional(
                "DATABASE_READ_URL",
                _database_url,
                None,
                "the address of a read replica: postgresql://strive_functions:<password>@<host>:<port>/postgres",
            ),
            database_connections=optional("DATABASE_CONNECTIONS", _connections, 16, "a number from 1 to 100"),
            flag_environment=optional("FLAG_ENVIRONMENT", _flag_environment, "PRODUCTION", " or ".join(Environment)),
            stripe_secret_key=optional(
                "STRIPE_SECRET_KEY",
                _stripe_key,
                None,
                "a key that begins with sk_test_, sk_live_, rk_test_ or rk_live_",
            ),
            stripe_webhook_secrets=optional(
                "STRIPE_WEBHOOK_SECRETS",
                _webhook_secrets,
                optional("STRIPE_WEBHOOK_SECRET", _webhook_secrets, (), "a secret that begins with whsec_"),
                "secrets that begin with whsec_, separated by commas",
            ),
            stripe_api_base=optional("STRIPE_API_BASE", _origin, "https://api.stripe.com", "an http(s) address"),
            stripe_promotion_codes=optional("STRIPE_PROMOTION_CODES", _switch, False, "true or false"),
            stripe_automatic_tax=optional("STRIPE_AUTOMATIC_TAX", _switch, False, "true or false"),
            return_origins=return_origins,
            smtp=optional("SMTP_URL", _smtp_server, None, "smtp://<user>:<password>@<host>:587 or smtps://…:465"),
            mail_from=optional("MAIL_FROM", _mail_from, None, "an address, e.g. Strive <no-reply@example.com>"),
            mail_webhook_secrets=optional(
                "MAIL_WEBHOOK_SECRETS", _webhook_secrets, (), "secrets that begin with whsec_, separated by commas"
            ),
            app_url=app_url or (return_origins[0] if return_origins else None),
            functions_url=optional("FUNCTIONS_URL", _web_address, f"{url}/functions/v1", "an http(s) address").rstrip(
                "/"
            ),
            trusted_proxies=optional(
                "TRUSTED_PROXIES",
                _trusted_proxies,
                DEFAULT_PROXIES,
                "how many proxies a request passes (0 to 9), or their networks, e.g. 10.0.0.0/8,fd00::/8",
            ),
            webhook_networks=optional(
                "WEBHOOK_ALLOWED_NETWORKS",
                _networks,
                (),
                "private networks that webhooks may reach, separated by commas, e.g. 127.0.0.0/8,::1/128",
            ),
            ai_base_url=optional(
                "AI_BASE_URL", _web_address, None, "an http(s) address, e.g. https://api.openai.com/v1"
            ),
            ai_api_key=optional("AI_API_KEY", str, None, "the key of the language model"),
            ai_model=optional("AI_MODEL", str, None, "the name of the language model"),
            telemetry=_telemetry(environment),
        )


def _telemetry(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name somewhere to send to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    ):
        if environment.get(name):
            if not find_spec("opentelemetry"):
                raise SettingsError(name, "no OpenTelemetry installed", "it installed: pip install 'strive[otel]'")
            return True
    return False


def jwks(text: str) -> tuple[Mapping[str, Any], ...]:
    """The keys of a set that can verify; raises ValueError saying what was found instead."""
    found = json.loads(text)
    keys = found.get("keys") if isinstance(found, dict) else found
    if not isinstance(keys, list) or not keys:
        raise ValueError("no keys")
    for key in keys:
        if not isinstance(key, dict) or key.get("kty") not in JWK_MEMBERS:
            raise ValueError("a key whose kty is not EC or RSA")
        if key["kty"] == "EC" and key.get("crv") != "P-256":
            raise ValueError("an EC key whose crv is not P-256")
        if missing := JWK_MEMBERS[key["kty"]] - key.keys():
            raise ValueError(f"a key without {', '.join(sorted(missing))}")
        if "d" in key:
            raise ValueError("a private key")
    return tuple(keys)


def _origin(text: str) -> str:
    address = urlsplit(_web_address(text))
    if address.path not in {"", "/"} or address.query or address.fragment:
        raise ValueError(f"{text!r}, which has a path")
    return text.rstrip("/")


def _origins(text: str) -> tuple[str, ...]:
    return tuple(_origin(part.strip()).lower() for part in text.split(","))


def _web_address(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in {"http", "https"} or not address.hostname or address.username:
        raise ValueError(repr(text))
    return text


def _smtp_server(text: str) -> SmtpServer:
    address = urlsplit(text)
    if address.scheme not in {"smtp", "smtps"}:
        raise ValueError(f"the scheme {address.scheme!r}" if address.scheme else "no scheme")
    if not address.hostname or address.path not in {"", "/"}:
        raise ValueError("a path in it" if address.hostname else "no host in it")
    implicit_tls = address.scheme == "smtps"
    user, password = (unquote(part) if part else None for part in (address.username, address.password))
    return SmtpServer(address.hostname, address.port or (465 if implicit_tls else 587), implicit_tls, user, password)


def _mail_from(text: str) -> tuple[str, str]:
    name, address = parseaddr(text)
    if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+|[^@\s<>]+@localhost", address):
        raise ValueError(repr(text))
    return name or "Strive", address


def _database_url(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in {"postgresql", "postgres"}:
        raise ValueError(f"the scheme {address.scheme!r}" if address.scheme else "no scheme")
    if not address.username or not address.hostname:
        raise ValueError(f"no {'host' if address.username else 'user'} in it")
    return text


def _api_key(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError("a key that begins otherwise")
    if len(text) < KEY_CHARACTERS or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError(f"a key of {len(text)} characters")
    return text


def _named_keys(text: str, prefix: str) -> Mapping[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict) or not found or not all(isinstance(key, str) for key in found.values()):
        raise ValueError("no object of texts")
    return {name: _api_key(key, prefix) for name, key in found.items()}


def _jwt_secret(text: str) -> str:
    if (length := len(text.encode())) < JWT_SECRET_BYTES:
        raise ValueError(f"{length} bytes")
    return text


def _signing_key(text: str) -> Mapping[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or (found.get("kty"), found.get("crv")) != ("EC", "P-256"):
        raise ValueError("no key of this kind")
    if missing := [name for name in ("kid", "d", "x", "y") if not isinstance(found.get(name), str)]:
        raise ValueError(f"one without {', '.join(missing)}")
    return found


def _switch(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(repr(text))
    return text.lower() == "true"


def _connections(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?|100", text):
        raise ValueError(repr(text))
    return int(text)


def _trusted_proxies(text: str) -> TrustedProxies:
    if re.fullmatch(r"[0-9]", text):
        return int(text)
    if text.isdecimal():
        raise ValueError(repr(text))
    return _networks(text)


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(","))


def _flag_environment(text: str) -> str:
    return Environment(text).value


def _stripe_key(text: str) -> str:
    if not re.fullmatch(r"(sk|rk)_(test|live)_\w+", text):
        raise ValueError("a key that begins otherwise")
    return text


def _webhook_secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"whsec_\S+", secret) for secret in secrets):
        raise ValueError("one that begins otherwise")
    return secrets
