#!/usr/bin/env python3
"""A program for POSTGREST_BIN where there is no real one: reads PostgREST's settings, serves the data API in Python."""

import base64
import json
import os
import sys
import tempfile

jwks = json.loads(os.environ["PGRST_JWT_SECRET"])["keys"]
secret = next(key["k"] for key in jwks if key["kty"] == "oct")
with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
    keys = {
        "publishable_key": "unused",
        "secret_key": "unused",
        "jwt_secret": base64.urlsafe_b64decode(secret + "==").decode(),
        "jwk": next(key for key in jwks if key["kty"] == "EC"),
    }
    json.dump(keys, file)
settings = {
    "DB_URL": os.environ["PGRST_DB_URI"],
    "DB_SCHEMAS": os.environ["PGRST_DB_SCHEMAS"],
    "DB_EXTRA_SEARCH_PATH": os.environ["PGRST_DB_EXTRA_SEARCH_PATH"],
    "DB_MAX_ROWS": os.environ["PGRST_DB_MAX_ROWS"],
    "KEYS_FILE": file.name,
    "PORT": os.environ["PGRST_SERVER_PORT"],
}
os.execve(sys.executable, [sys.executable, "-m", "local.api.rest"], os.environ | settings)  # noqa: S606
