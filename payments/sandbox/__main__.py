"""`python -m payments.sandbox`: start the stand-in for Stripe. Exit 0 after SIGTERM or Ctrl-C, 2 when it cannot start."""

import argparse
import ipaddress
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from payments.sandbox import background
from payments.sandbox.account import Account, Config
from payments.sandbox.app import App
from payments.sandbox.server import Server
from payments.sandbox.store import Store

KEY_VARIABLES = ("STRIPE_API_KEY", "STRIPE_SECRET_KEY")
LIVE_KEYS = ("sk_live", "rk_live")
POLL_S = 0.1  # how soon a stop is noticed


class CannotStartError(Exception):
    """The message is the one line that the operator reads."""


def main() -> int:
    options = _parser().parse_args()
    try:
        _refuse_danger(options.host, os.environ)
        account = Account(_open_store(options.storage), _config(options))
        server = _bind(options.host, options.port, App(account))
    except CannotStartError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2

    def stop(_number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()  # it would wait for itself in this thread

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    background.start(account)
    host, port = server.server_address[:2]
    print(f"Stripe sandbox at http://{host!s}:{port}, storage {options.storage}", flush=True)
    server.serve_forever(poll_interval=POLL_S)
    server.server_close()
    with account.lock:  # a running request commits first
        account.store.close()
        sys.stdout.flush()
        os._exit(0)  # the other threads are daemons with nothing left to lose


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m payments.sandbox", description="A stand-in for Stripe's API.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default %(default)s)")
    parser.add_argument("--port", type=int, default=12111, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--storage", type=Path, default=Path("var/sandbox.sqlite3"), help="default %(default)s")
    parser.add_argument("--webhook-url", help="where events are posted; without it none are")
    parser.add_argument("--webhook-secret", default=Config.webhook_secret, help="default %(default)s")
    parser.add_argument("--secret-key", default=Config.secret_key, help="default %(default)s")
    parser.add_argument("--publishable-key", default=Config.publishable_key, help="default %(default)s")
    parser.add_argument(
        "--settle-after",
        type=float,
        default=Config.settle_after_s,
        metavar="S",
        help="seconds until a charge gets its balance transaction (default %(default)s: at once)",
    )
    parser.add_argument(
        "--news-after",
        type=float,
        default=Config.news_after_s,
        metavar="S",
        help="seconds until late news of a payment or refund (default %(default)s)",
    )
    return parser


def _config(options: argparse.Namespace) -> Config:
    url = options.webhook_url
    if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
        raise CannotStartError(f"--webhook-url {url} is not an http or https address")
    return Config(
        secret_key=options.secret_key,
        publishable_key=options.publishable_key,
        webhook_url=url,
        webhook_secret=options.webhook_secret,
        settle_after_s=options.settle_after,
        news_after_s=options.news_after,
    )


def _refuse_danger(host: str, environment: Mapping[str, str]) -> None:
    """A stand-in beside real money, or open to the network, is an accident waiting."""
    for name in KEY_VARIABLES:
        if environment.get(name, "").startswith(LIVE_KEYS):
            raise CannotStartError(f"refuses to start: {name} holds a live key")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise CannotStartError(f"refuses to listen on {host}: loopback addresses only")


def _open_store(path: Path) -> Store:
    try:
        return Store(path)
    except (OSError, sqlite3.Error) as error:
        reason = "another sandbox uses it" if "locked" in str(error) else error
        raise CannotStartError(f"cannot open the storage {path}: {reason}") from error


def _bind(host: str, port: int, app: App) -> Server:
    try:
        return Server((host, port), app)
    except (OSError, OverflowError) as error:
        raise CannotStartError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
