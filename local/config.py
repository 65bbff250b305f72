"""Reads supabase/config.toml, so that this stack and a real project have one configuration."""

import json
import re
import tomllib
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import urlsplit

from local import ROOT
from local.keys import Keys

# Browsers treat them as two origins; people type either.
OTHER = {"//localhost": "//127.0.0.1", "//127.0.0.1": "//localhost"}
LOCAL = re.compile(r"//(localhost|127\.0\.0\.1)(?=:|$)")
FILE = ROOT / "supabase" / "config.toml"


def return_origins() -> str:
    """The origins that links in mails and Stripe pages may return to; localhost and 127.0.0.1 count as one."""
    auth = tomllib.loads(FILE.read_text()).get("auth", {})
    addresses = [urlsplit(text) for text in [auth.get("site_url", ""), *auth.get("additional_redirect_urls", [])]]
    # A pattern with * in its host is not an origin.
    origins = [
        f"{at.scheme}://{at.netloc}" for at in addresses if at.scheme in {"http", "https"} and "*" not in at.netloc
    ]
    twins = [LOCAL.sub(lambda found: OTHER[found[0]], origin) for origin in origins]
    return ",".join(dict.fromkeys([*origins, *twins]))


def api_environment() -> dict[str, str]:
    """The settings of the API, as environment variables."""
    config = tomllib.loads(FILE.read_text())
    api, auth, storage = (config.get(section, {}) for section in ("api", "auth", "storage"))
    hook = auth.get("hook", {}).get("custom_access_token", {})
    settings: dict[str, Any] = {
        "DB_SCHEMAS": ",".join(api.get("schemas", [])),
        "DB_EXTRA_SEARCH_PATH": ",".join(api.get("extra_search_path", [])),
        "DB_MAX_ROWS": api.get("max_rows"),
        "SITE_URL": auth.get("site_url"),
        "REDIRECT_URLS": ",".join(auth.get("additional_redirect_urls", [])),
        "JWT_EXPIRY": auth.get("jwt_expiry"),
        "PASSWORD_MIN_LENGTH": auth.get("minimum_password_length"),
        "ACCESS_TOKEN_HOOK": hook.get("uri") if hook.get("enabled") else None,
        "STORAGE_FILE_SIZE_LIMIT": storage.get("file_size_limit"),
    }
    return {name: str(value) for name, value in settings.items() if value not in {None, ""}}


def postgrest_environment(database_url: str, port: int, keys: Keys) -> dict[str, str]:
    """The settings of a real PostgREST (POSTGREST_BIN), equal to those of the data API in Python."""
    api = api_environment()
    secret = {"kty": "oct", "k": urlsafe_b64encode(keys.jwt_secret.encode()).rstrip(b"=").decode(), "alg": "HS256"}
    public = {name: value for name, value in keys.jwk.items() if name not in {"d", "key_ops"}}
    return {
        "PGRST_DB_URI": database_url,
        "PGRST_DB_SCHEMAS": api.get("DB_SCHEMAS", "public"),
        "PGRST_DB_EXTRA_SEARCH_PATH": api.get("DB_EXTRA_SEARCH_PATH", "public"),
        "PGRST_DB_MAX_ROWS": api.get("DB_MAX_ROWS", "1000"),
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_JWT_SECRET": json.dumps({"keys": [secret, public]}),
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": str(port),
    }
