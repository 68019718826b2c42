"""A row that must survive."""

import psycopg

from tests.stack_process import RunningStack


def write(stack: RunningStack, mark: str) -> None:
    with _connect(stack) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS mark (text text)")
        connection.execute("INSERT INTO mark VALUES (%s)", [mark])


def has(stack: RunningStack, mark: str) -> bool:
    with _connect(stack) as connection:
        return connection.execute("SELECT count(*) FROM mark WHERE text = %s", [mark]).fetchone() == (1,)


def _connect(stack: RunningStack) -> psycopg.Connection:
    """A killed PostgreSQL recovers for a moment before it lets anybody in."""
    connections: list[psycopg.Connection] = []

    def connected() -> bool:
        try:
            connections.append(psycopg.connect(stack.info["database_url"], autocommit=True))
        except psycopg.OperationalError:
            return False
        return True

    stack.wait_for(connected)
    return connections[0]
