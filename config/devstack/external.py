"""Servers that the environment names: tried before anything is started, so that a wrong URL is told at once."""

from urllib.parse import urlsplit

from config.devstack.system import StackError

CONNECT_TIMEOUT_S = 5


def check_database(url: str) -> None:
    """Raises StackError with the server's reason; never with the password."""
    _check_scheme("DATABASE_URL", url, "postgresql", "postgres")
    import psycopg  # not needed, and not loaded, where the server is embedded

    try:
        psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S).close()
    except psycopg.Error as error:
        raise StackError(f"DATABASE_URL: {' '.join(str(error).split())}") from None


def check_redis(url: str) -> None:
    """Raises StackError with the server's reason."""
    _check_scheme("REDIS_URL", url, "redis", "rediss", "unix")
    import redis

    try:
        redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S).ping()
    except (redis.RedisError, ValueError) as error:
        raise StackError(f"REDIS_URL: {error}") from None


def _check_scheme(variable: str, url: str, *schemes: str) -> None:
    if urlsplit(url).scheme not in schemes:
        raise StackError(f"{variable} has to begin with {schemes[0]}://")
