"""`python -m local.api` serves until SIGTERM."""

import os
import sys
from urllib.parse import urlsplit

import psycopg

from local.api.settings import SettingsError, read_settings


def main() -> None:
    try:
        settings = read_settings(os.environ)
    except (SettingsError, OSError, ValueError) as error:
        sys.exit(f"The API cannot start: {error}")
    from local.api.server import serve  # noqa: PLC0415 - a wrong setting is reported without loading the server

    try:
        serve(settings)
    except (psycopg.Error, OSError) as error:
        address = urlsplit(settings.database_url)
        sys.exit(f"The API cannot start: {error} (database at {address.hostname}:{address.port})")


main()
