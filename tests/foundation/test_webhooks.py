"""Calls to strangers' endpoints: signed, never into our own network, never for long, never further than asked."""

import base64
import contextlib
import hmac
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from foundation import webhooks
from foundation.webhooks import WebhookFailed, WebhookForbidden

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Endpoint:
    """A merchant's server. `answer` is what it says; `heard` what it was told."""

    url: str = ""
    status: int = 204
    location: str = ""
    drip_s: float = 0
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            one.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if one.drip_s:
                for _ in range(1000):
                    self.wfile.write(b"H")
                    time.sleep(one.drip_s)
            self.send_response(one.status)
            if one.location:
                self.send_header("Location", one.location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # we hung up
                return

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one.url = f"http://127.0.0.1:{server.server_port}/hooks?shop=1"
        yield one
        server.shutdown()


@pytest.fixture
def house(settings) -> None:
    """The operator has allowed the network that the endpoint is in."""
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def post(url: str, body: bytes = b'{"type":"a"}', message_id: str = "msg_1") -> None:
    webhooks.post(url=url, secrets=[SECRET], message_id=message_id, body=body)


# --- Signing ----------------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_standards_own_example():
    """https://www.standardwebhooks.com and its libraries use this vector."""
    assert (
        webhooks.signature(
            secret=SECRET,
            message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp=1614265330,
            body=b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_secret_of_another_form_signs_nothing():
    with pytest.raises(ValueError, match="whsec_"):
        webhooks.signature(secret="whsec_not base64!", message_id="m", timestamp=1, body=b"")


def test_what_arrives_can_be_verified_by_the_receiver(endpoint, house):
    post(endpoint.url, json.dumps({"n": 1}).encode(), message_id="msg_7")
    ((path, headers, body),) = endpoint.heard
    assert path == "/hooks?shop=1"
    assert (headers["webhook-id"], headers["content-type"]) == ("msg_7", "application/json")
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    signed = f"msg_7.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.digest(base64.b64decode(SECRET.removeprefix("whsec_")), signed, "sha256")
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


# --- Where it may go --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # the metadata of most clouds
        "100.100.100.200",  # of one more
        "168.63.129.16",  # of another
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_out_on_the_internet_is_none(address):
    assert not webhooks.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_an_address_that_is_out_on_the_internet_is_one(address):
    assert webhooks.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "127.1"])
def test_our_own_house_is_not_called(endpoint, host):
    with pytest.raises(WebhookFailed):
        post(endpoint.url.replace("127.0.0.1", host))
    assert endpoint.heard == []


@pytest.mark.parametrize("url", ["ftp://example.com/x", "file:///etc/passwd", "//example.com", "https://", "nonsense"])
def test_only_web_addresses_are_called(url):
    with pytest.raises(WebhookForbidden):
        post(url)


@pytest.mark.parametrize(
    "url", ["https://shop.example/hooks", "https://93.184.216.34:8443/", "https://[2606:2800:220:1::1]/"]
)
def test_an_address_that_may_be_called_is_taken(url):
    webhooks.check_url(url)


@pytest.mark.parametrize(
    "url",
    ["http://shop.example/", "https://127.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://x:99999/", "https://", "x"],
)
def test_an_address_that_can_never_be_called_is_not_taken(url):
    with pytest.raises(WebhookForbidden):
        webhooks.check_url(url)


def test_an_address_in_an_allowed_network_is_taken(house):
    webhooks.check_url("http://127.0.0.1:8000/hooks")
    with pytest.raises(WebhookForbidden):
        webhooks.check_url("http://10.0.0.1/")


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[Any]:
    """DNS as an attacker answers it, time after time; what is then connected to."""
    left, connected = list(answers), []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    def create_connection(address: Any, **_: Any) -> Any:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    return connected


def test_a_name_that_leads_inside_is_not_called(monkeypatch):
    connected = resolving(monkeypatch, ["10.0.0.7"])
    with pytest.raises(WebhookForbidden, match="not a public address"):
        post("https://shop.example/hooks")
    assert connected == []


def test_a_name_of_which_one_address_leads_inside_is_not_called(monkeypatch):
    connected = resolving(monkeypatch, ["93.184.216.34", "169.254.169.254"])
    with pytest.raises(WebhookForbidden):
        post("https://shop.example/hooks")
    assert connected == []


def test_the_address_that_was_looked_at_is_the_one_that_is_called(monkeypatch):
    """A name that means something else a moment later changes nothing."""
    connected = resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(WebhookFailed):
        post("https://shop.example/hooks")
    assert connected == [("93.184.216.34", 443)]


def test_strangers_are_called_by_https_alone(monkeypatch):
    connected = resolving(monkeypatch, ["93.184.216.34"])
    with pytest.raises(WebhookForbidden, match="https"):
        post("http://shop.example/hooks")
    assert connected == []


# --- What it answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 299])
def test_any_2xx_is_an_acknowledgement(endpoint, house, status):
    endpoint.status = status
    post(endpoint.url)
    assert len(endpoint.heard) == 1


@pytest.mark.parametrize("status", [400, 410, 500, 503])
def test_anything_else_is_none(endpoint, house, status):
    endpoint.status = status
    with pytest.raises(WebhookFailed, match=f"answered {status}"):
        post(endpoint.url)


def test_a_redirect_is_not_followed(endpoint, house):
    endpoint.status, endpoint.location = 307, endpoint.url
    with pytest.raises(WebhookFailed, match="answered 307"):
        post(endpoint.url)
    assert len(endpoint.heard) == 1


def test_a_server_that_drips_is_hung_up_on(endpoint, house, settings):
    """Each byte comes in time; all of them never do."""
    settings.WEBHOOK_DEADLINE_S = 0.3
    endpoint.drip_s = 0.05
    began = time.monotonic()
    with pytest.raises(WebhookFailed):
        post(endpoint.url)
    assert time.monotonic() - began < 2


def test_a_handshake_that_drips_is_hung_up_on(house, settings):
    """Before the first byte of HTTP: each byte of a TLS record comes in time, the record never ends."""
    settings.WEBHOOK_DEADLINE_S = 0.3
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            client.sendall(b"\x16\x03\x03\x40\x00")  # a handshake record of 16 kB follows
            for _ in range(100):
                if over.wait(0.05):
                    break
                client.sendall(b"\x00")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=[server])
        dripping.start()
        began = time.monotonic()
        try:
            with pytest.raises(WebhookFailed):
                post(f"https://127.0.0.1:{server.getsockname()[1]}/")
            assert time.monotonic() - began < 2
        finally:
            over.set()
            dripping.join()


@pytest.fixture
def certified(tmp_path) -> Iterator[tuple[str, Any, list[bytes]]]:
    """An endpoint behind TLS whose certificate nobody but itself has signed: address, certificate, what it heard."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True, timeout=20)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/hooks", certificate, heard
        server.shutdown()


def test_a_certificate_that_nobody_signed_is_not_trusted(certified, house):
    url, _, heard = certified
    with pytest.raises(WebhookFailed, match="CERTIFICATE_VERIFY_FAILED"):
        post(url)
    assert heard == []


def test_a_call_over_tls_arrives(certified, house, monkeypatch):
    url, certificate, heard = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert webhooks.post(url=url, secrets=[SECRET], message_id="msg_1", body=b"{}") == 204
    assert heard == [b"{}"]


def test_nobody_there_is_a_failure(house):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(WebhookFailed, match="ConnectionRefused"):
        post(f"http://127.0.0.1:{port}/")
