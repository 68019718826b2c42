"""What all tests share: real servers first, Django on them after that."""

import os
import shutil

import pytest

from tests import servers

# Before Django reads its settings, and before any other conftest imports a model.
servers.start_missing_servers()
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
os.environ["EMAIL_URL"] = "memorymail://"
# Where limits are not the matter, no test needs logins: these names settle without one.
os.environ["JOBS_THAT_SETTLE"] = "carl,clara,clerk,drill,mia,nils,test"
# Nothing listens here: a test that forgot the `sandbox` fixture must not reach Stripe.
os.environ["STRIPE_API_BASE"] = "http://127.0.0.1:9"
os.environ.pop("STRIPE_API_KEY", None)

import django  # noqa: E402

django.setup()

from django.conf import settings as django_settings  # noqa: E402

from foundation import redis  # noqa: E402
from tests import cleaning  # noqa: E402
from tests.races import race, unguarded  # noqa: E402, F401  fixtures
from tests.stack_process import RunningStack  # noqa: E402

cleaning.install()
# Admin pages name static files; no test needs them collected, compressed and hashed.
django_settings.STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
django_settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # whitenoise warns where it is missing
# In a worker of xdist pytest-django has read the settings before this file named the worker's own Valkey database.
django_settings.REDIS_URL = django_settings.CELERY_BROKER_URL = os.environ["REDIS_URL"]
django_settings.CACHES["default"]["LOCATION"] = os.environ["REDIS_URL"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One stack for all its tests, so xdist must not spread them; they wait much, so they begin first."""
    for item in items:
        if item.get_closest_marker("stack"):
            item.add_marker(pytest.mark.xdist_group("stack"))
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


@pytest.fixture
def valkey():
    """The redis client of this process, on an empty database of its own."""
    client = redis.client()
    client.flushdb()
    yield client
    client.flushdb()


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory):
    """One Stripe sandbox for the session, as a process of its own."""
    from tests.sandbox_process import start_sandbox

    handle = start_sandbox(tmp_path_factory.mktemp("sandbox"))
    yield handle
    handle.stop()


@pytest.fixture
def sandbox(sandbox_process, settings, monkeypatch: pytest.MonkeyPatch):
    """The sandbox, with the product (and the processes that a test starts) pointed at it, and nothing in its books."""
    sandbox_process.control("POST", "reset")  # else each test would be told what happened in those before it
    settings.STRIPE_API_BASE = sandbox_process.url
    monkeypatch.setenv("STRIPE_API_BASE", sandbox_process.url)
    return sandbox_process


@pytest.fixture(scope="session")
def _one_stack():
    running = RunningStack(servers.TEST_DATA / f"{os.getpid()}-stack")
    yield running
    running.stop()
    shutil.rmtree(running.var, ignore_errors=True)
    running.output.unlink(missing_ok=True)


@pytest.fixture
def stack(_one_stack):
    """The whole stack, running as `make up DEMO=0` leaves it, in a folder of its own; started again if a test ended it."""
    return _one_stack.start()
