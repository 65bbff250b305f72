"""`python -m local.api` serves until SIGTERM."""

import os
import sys
from urllib.parse import urlsplit

from local.api.settings import SettingsError, read_settings


def main() -> None:
    try:
        settings = read_settings(os.environ)
    except (SettingsError, OSError, ValueError) as error:
        sys.exit(f"The API cannot start: {error}")
    # Only now: a wrong setting is reported without loading the server.
    from local.api.errors import DatabaseUnavailable  # noqa: PLC0415
    from local.api.server import serve  # noqa: PLC0415

    try:
        serve(settings)
    except (DatabaseUnavailable, OSError) as error:
        address = urlsplit(settings.database_url)
        sys.exit(f"The API cannot start: {error} (database at {address.hostname}:{address.port})")


main()
