"""Calls to strangers' endpoints, signed in the form of https://www.standardwebhooks.com.

The address is a merchant's, so it may lead anywhere: into our own network, to a cloud's metadata service, to a server
that never answers. Names are resolved here, what is not a public address is refused, and the connection goes to the very
address that was looked at: a name that means something else a moment later changes nothing. Redirects are not followed.
"""

import base64
import binascii
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

USER_AGENT = "Everycent-Webhooks/1"
_SECRET_MARK = "whsec_"  # noqa: S105  what a secret begins with
# What Python calls global, in one version or another, and is not out on the internet all the same.
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own services, metadata among them
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "2001::/23",  # protocol assignments; Teredo, which wraps an IPv4 address
        "2002::/16",  # 6to4, which does so too
        "64:ff9b:1::/48",  # NAT64 into somebody's own network
        "fec0::/10",  # site-local
    )
]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # how a network without IPv4 writes the addresses of the others
_ADDRESSES_TRIED = 2  # IPv6 and IPv4; each may take WEBHOOK_CONNECT_TIMEOUT_S


class WebhookFailed(Exception):
    """The endpoint did not accept it: it is sent again, under the same id."""


class WebhookForbidden(WebhookFailed):
    """The address is none that a webhook may go to. It is tried again too: a merchant can mend it."""


def signature(*, secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

    `secret` is `whsec_` and the base64 of the key. Raises ValueError for another form.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_MARK), validate=True)
    except binascii.Error:
        raise ValueError("a webhook's secret is whsec_ and the base64 of its key") from None
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def check_url(url: str) -> None:
    """Refuse what no webhook can go to, without asking anybody: names are looked up at each call. Raises WebhookForbidden."""
    parts = _split(url)
    networks = [ipaddress.ip_network(network) for network in settings.WEBHOOK_ALLOWED_NETWORKS]
    if parts.scheme == "http" and not networks:
        raise WebhookForbidden("a webhook's address begins with https://")
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return  # a name
    if not is_public(address) and not any(address in network for network in networks):
        raise WebhookForbidden(f"{address} is not a public address")


def post(*, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> int:
    """Deliver a JSON document. `message_id` is the same for each try, and holds no full stop. Returns the status, a 2xx.

    Signed with each of the secrets: two, while one is rolled.

    Raises WebhookForbidden, and WebhookFailed for any answer but 2xx and for none within WEBHOOK_DEADLINE_S. Belongs
    outside of transactions.
    """
    parts = _split(url)
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            signature(secret=secret, message_id=message_id, timestamp=timestamp, body=body) for secret in secrets
        ),
    }
    try:
        status = _status(parts, headers, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WebhookFailed(f"{parts.hostname}: {type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        raise WebhookFailed(f"{parts.hostname} answered {status}")
    return status


def _status(parts: SplitResult, headers: dict[str, str], body: bytes) -> int:
    """Send it and read the status line. What follows it is a stranger's, and not read."""
    until = time.monotonic() + settings.WEBHOOK_DEADLINE_S
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname or "", port)  # what it speaks over is laid under it here
    with _connected(_resolve(parts, port), port) as plain, _ended_at(until, plain):
        plain.settimeout(max(0.1, until - time.monotonic()))
        with _secured(plain, parts) as connection.sock:
            target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
            connection.request("POST", target, body=body, headers={"Host": parts.netloc.rpartition("@")[2], **headers})
            with connection.getresponse() as response:
                return response.status


def _connected(addresses: list[Address], port: int) -> socket.socket:
    """A connection to the first address that takes one: to these, whatever the name means by now."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((str(address), port), timeout=settings.WEBHOOK_CONNECT_TIMEOUT_S)
    return socket.create_connection((str(addresses[-1]), port), timeout=settings.WEBHOOK_CONNECT_TIMEOUT_S)


def _secured(plain: socket.socket, parts: SplitResult) -> socket.socket:
    if parts.scheme == "http":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)


@contextmanager
def _ended_at(until: float, connection: socket.socket) -> Iterator[None]:
    """Hang up at a moment: a timeout alone bounds each read, and a server that drips would go on for ever.

    By a handle of its own: TLS takes the socket over, and the handshake is the first thing that can drip.
    """
    with connection.dup() as handle:
        hang_up = threading.Timer(max(0.0, until - time.monotonic()), partial(_hang_up, handle))
        hang_up.daemon = True
        hang_up.start()
        try:
            yield
        finally:
            hang_up.cancel()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WebhookForbidden(f"no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WebhookForbidden("a webhook's address begins with https://")
    return parts


def _resolve(parts: SplitResult, port: int) -> list[Address]:
    """The addresses of a name, two at most. Where one of them is forbidden, the name is. Raises WebhookForbidden."""
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    networks = [ipaddress.ip_network(network) for network in settings.WEBHOOK_ALLOWED_NETWORKS]
    for address in addresses:
        is_allowed = any(address in network for network in networks)
        if not is_allowed and not is_public(address):
            raise WebhookForbidden(f"{parts.hostname} leads to {address}, which is not a public address")
        if not is_allowed and parts.scheme == "http":
            raise WebhookForbidden(f"{parts.hostname} is to be called by https, not by http")
    return addresses[:_ADDRESSES_TRIED]


def is_public(address: Address) -> bool:
    """Whether an address is out on the internet: not private, link-local, loopback, multicast, reserved, or a cloud's
    metadata service. An IPv4 address in IPv6 clothes is judged as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _REFUSED)
