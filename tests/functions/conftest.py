from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from local.postgres import Cluster
from supabase import Client, ClientOptions, create_client
from tests.conftest import Strive
from tests.functions.platform import Platform, platform_of
from tests.functions.serving import Serving, environment, serving
from tests.functions.test_clients import PASSWORD, connect
from tests.world import Database


@pytest.fixture(scope="session")
def functions_login(cluster: Cluster) -> str:
    """The login of the functions, with the password that people set by hand where they deploy."""
    with cluster.connect("supabase_admin", "template1") as connection:
        connection.execute(f"alter role strive_functions password '{cluster.password}'")
    return "strive_functions"


@pytest.fixture(scope="module")
def database_url(database: Database, functions_login: str) -> str:
    return database.url(functions_login)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Serving]:
    """All functions, served as they are in production, on the module's database."""
    with serving(tmp_path_factory.mktemp("functions"), environment(database_url)) as running:
        yield running


@pytest.fixture(scope="module")
def platform(stack: Strive) -> Iterator[Platform]:
    with platform_of(stack) as platform:
        yield platform


@pytest.fixture(scope="module")
def clients(stack: Strive) -> Iterator[Callable[[str, str], Client]]:
    """Sign somebody in who has an account."""
    with ExitStack() as closing:

        def client(email: str, password: str = PASSWORD) -> Client:
            made = connect(stack, closing.enter_context(httpx.Client(timeout=30)))
            made.auth.sign_in_with_password({"email": email, "password": password})
            return made

        yield client


@pytest.fixture(scope="module")
def server(stack: Strive) -> Iterator[Client]:
    with httpx.Client(timeout=30) as http:
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield create_client(stack.api_url, stack.secret_key, options=options)
