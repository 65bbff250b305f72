from collections.abc import Iterator

import pytest

from local.postgres import SUPERUSER
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.support.world import Database


@pytest.fixture(scope="module")
def matrix(database: Database) -> Iterator[Matrix]:
    with database.connect(SUPERUSER) as superuser, database.connect() as owner:
        matrix = Matrix(superuser, Expected.read())
        matrix.populate(owner)
        yield matrix
