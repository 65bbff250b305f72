"""Fixtures of the API's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.api import Api, running
from tests.support.world import Database

LIBRARY = Path(__file__).with_name("library.sql")


@pytest.fixture(scope="module")
def api(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API in front of this module's own database, which also holds the library."""
    with database.connect() as connection:
        connection.execute(LIBRARY.read_bytes())
    with running(database, tmp_path_factory.mktemp("api")) as api:
        yield api
