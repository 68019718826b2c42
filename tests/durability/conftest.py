from collections.abc import Iterator

import pytest

from tests.durability.toys import script


@pytest.fixture(autouse=True)
def fresh_toys(transactional_db, valkey) -> Iterator[None]:
    """Durability commits for itself, so its tests do too."""
    script.reset()
    yield
    script.reset()
