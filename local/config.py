"""supabase/config.toml as far as the API here follows it: one configuration for this stack and the real one."""

import tomllib
from typing import Any
from urllib.parse import urlsplit

from local import ROOT

FILE = ROOT / "supabase" / "config.toml"


def return_origins() -> str:
    """Where people may be led back to: the origins that mailed links may lead to."""
    auth = tomllib.loads(FILE.read_text()).get("auth", {})
    addresses = [urlsplit(text) for text in [auth.get("site_url", ""), *auth.get("additional_redirect_urls", [])]]
    # A pattern with a * in its host names no origin.
    known = [
        f"{at.scheme}://{at.netloc}" for at in addresses if at.scheme in {"http", "https"} and "*" not in at.netloc
    ]
    return ",".join(dict.fromkeys(known))


def api_environment() -> dict[str, str]:
    """What the API is told of it, by the names of local/api/settings.mjs."""
    config = tomllib.loads(FILE.read_text())
    api, auth, storage = (config.get(section, {}) for section in ("api", "auth", "storage"))
    hook = auth.get("hook", {}).get("custom_access_token", {})
    settings: dict[str, Any] = {
        "DB_SCHEMAS": ",".join(api.get("schemas", [])),
        "DB_MAX_ROWS": api.get("max_rows"),
        "SITE_URL": auth.get("site_url"),
        "REDIRECT_URLS": ",".join(auth.get("additional_redirect_urls", [])),
        "JWT_EXPIRY": auth.get("jwt_expiry"),
        "PASSWORD_MIN_LENGTH": auth.get("minimum_password_length"),
        "ACCESS_TOKEN_HOOK": hook.get("uri") if hook.get("enabled") else None,
        "STORAGE_FILE_SIZE_LIMIT": storage.get("file_size_limit"),
    }
    return {name: str(value) for name, value in settings.items() if value not in {None, ""}}
