"""What a log line carries, and what it never does."""

import io
import json
import logging
import string
import subprocess
import sys
import time
from typing import Any

import pytest
from django.conf import settings
from hypothesis import example, given
from hypothesis import strategies as st

from foundation.ids import public_id, uuid7
from foundation.logs import JsonFormatter, LineFormatter, begin, bound, bound_id, named, note, redact

ORDER, PAYMENT = public_id("ord", uuid7()), public_id("pay", uuid7())
ALPHANUMERIC = string.ascii_letters + string.digits


@pytest.fixture(autouse=True)
def nothing_bound():
    begin()
    yield
    begin()


class Lines:
    """A logger whose lines are caught as they would reach the terminal."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.output = io.StringIO()
        self.log = logging.Logger("test")
        handler = logging.StreamHandler(self.output)
        handler.setFormatter(formatter)
        self.log.addHandler(handler)

    @property
    def text(self) -> str:
        return self.output.getvalue()

    @property
    def json(self) -> dict[str, object]:
        (line,) = self.text.splitlines()
        document: dict[str, object] = json.loads(line)
        return document


@pytest.fixture
def lines() -> Lines:
    return Lines(JsonFormatter())


# --- Ids ----------------------------------------------------------------------------------------------


def test_a_line_carries_the_ids_bound_around_it(lines):
    with bound(request_id="req-1"), bound(saga="payments.refund x", **named(PAYMENT, ORDER)):
        lines.log.warning("no answer for %s s", 3)
    assert (
        lines.json.items()
        >= {
            "level": "warning",
            "logger": "test",
            "message": "no answer for 3 s",
            "request_id": "req-1",
            "saga": "payments.refund x",
            "order": ORDER,
            "payment": PAYMENT,
        }.items()
    )


def test_what_was_bound_ends_with_its_block_whatever_happens():
    with pytest.raises(ZeroDivisionError), bound(order=ORDER):
        note(payment=PAYMENT)
        assert bound_id("payment") == PAYMENT
        _ = 1 / 0
    assert (bound_id("order"), bound_id("payment")) == ("", "")


def test_named_knows_public_ids_and_nothing_else():
    refund = public_id("ref", uuid7())
    assert named("", None, 5, "ord_short", "xord_" + ORDER, refund, f"{ORDER}:cancel") == {
        "refund": refund,
        "order": ORDER,
    }


def test_extra_fields_and_the_traceback_are_on_the_same_single_line(lines):
    try:
        raise ValueError("first\nsecond \u2028 third \ud800")
    except ValueError:
        lines.log.exception("broke", extra={"took_ms": 5, "names": {"b"}})
    assert lines.json["took_ms"] == 5
    assert lines.json["names"] == ["b"]
    assert "ValueError: first\nsecond" in str(lines.json["exception"])


def test_a_record_that_cannot_be_formatted_is_told_and_keeps_its_secrets(lines, capsys):
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    lines.log.error("%d %s", "sk_live_abcdef", Broken(), extra={"odd": Broken()})
    assert "sk_live_[redacted]" in str(lines.json["message"])
    assert "cannot be shown" in str(lines.json["odd"])
    assert capsys.readouterr().err == ""


def test_a_line_for_people_cannot_be_forged():
    lines = Lines(LineFormatter())
    with bound(order=ORDER):
        lines.log.warning("hello\n2026-01-01T00:00:00.000Z ERROR   root forged \x1b[2J")
    first, second = lines.text.splitlines()
    assert first.endswith("hello")
    assert second.startswith("    2026")
    assert "\x1b" not in second
    assert f"[order={ORDER}]" in second


# --- Secrets ------------------------------------------------------------------------------------------


def card(prefix: str) -> str:
    """The card number that begins so: its check digit added."""
    digits = [int(letter) for letter in prefix]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[::-2]]
    return prefix + str(-(sum(digits[-2::-2]) + sum(doubled)) % 10)


random_text = st.text(ALPHANUMERIC, min_size=10, max_size=40).map(lambda text: f"Zq9{text}")
hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
# A secret as it is found in the wild, and the part of it that must not be found in a log.
SECRETS = st.one_of(
    st.builds(lambda kind, x: (f"{kind}_{x}", x), st.sampled_from(["sk_test", "sk_live", "rk_live", "pk_live"]), random_text),
    st.builds(lambda x: (f"whsec_{x}", x), random_text),
    st.builds(lambda x: (f"pi_3Pabc_secret_{x}", x), random_text),
    st.builds(lambda x, y: (f"ek_{x[:12]}_{y}", y), hexadecimal, hexadecimal),
    st.builds(lambda x: (f"postgresql://everycent:{x}@127.0.0.1:5432/everycent", x), random_text),
    st.builds(lambda x: (f"redis://:{x}@valkey:6379/0", x), random_text),
    st.builds(lambda scheme, x: (f"Authorization: {scheme} {x}", x), st.sampled_from(["Bearer", "basic", "Token"]), random_text),
    st.builds(lambda x: (f"password={x}", x), random_text),
    st.builds(lambda x: (f'{{"client_secret": "two words {x}"}}', x), random_text),
    st.builds(lambda x: (json.dumps(json.dumps({"api_key": x})), x), random_text),
    st.builds(lambda x: (repr({"Authorization": f"Bearer {x}"}), x), random_text),
    st.builds(lambda x: (repr([("Cookie", f"a=b; sessionid={x}")]), x), random_text),
    st.text("0123456789", min_size=14, max_size=14).map(lambda x: (card(f"4{x}"), card(f"4{x}"))),
    st.text("0123456789", min_size=14, max_size=14).map(
        lambda x: ((n := card(f"5{x}")), n) and (f"{n[:4]} {n[4:8]}-{n[8:12]} {n[12:]}", n[12:] and f"{n[:4]} {n[4:8]}")
    ),
)  # fmt: skip
AROUND = st.text(string.ascii_lowercase + " \n.:;,(){}'\"=<>", max_size=9)


class Odd:
    """An object whose text holds the secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Odd {self.text}>"


def _raise(log: logging.Logger, text: str) -> None:
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise RuntimeError(f"wrapped {text}") from error
    except RuntimeError:
        log.exception("it broke")


def _bound(log: logging.Logger, text: str) -> None:
    with bound(it=text):
        log.info("said")


# Every way into a record.
PATHS = {
    "message": lambda log, text: log.info(text.replace("%", "%%")),
    "argument": lambda log, text: log.info("said %s", text),
    "argument that is shown": lambda log, text: log.info("said %r", {"body": [Odd(text)]}),
    "named argument": lambda log, text: log.info("said %(it)s", {"it": text}),
    "arguments that do not fit": lambda log, text: log.info("%d", text),
    "extra": lambda log, text: log.info("said", extra={"it": text}),
    "nested extra": lambda log, text: log.info("said", extra={"it": {"deep": [Odd(text)], text: 1}}),
    "bound": _bound,
    "exception": _raise,
    "stack": lambda log, text: log.info("said %s", text, stack_info=True),
}


@given(SECRETS, AROUND, AROUND, st.sampled_from(sorted(PATHS)), st.sampled_from([JsonFormatter, LineFormatter]))
@example(("password='a b 0123456789'", "0123456789"), "", "", "extra", JsonFormatter)
def test_no_secret_reaches_a_log_whatever_its_way(secret, before, after, path, formatter):
    text, hidden = secret
    lines = Lines(formatter())
    PATHS[path](lines.log, f"{before} {text} {after}")
    assert lines.text
    assert hidden not in lines.text


@pytest.mark.parametrize(
    "name", ["password", "client_secret", "Authorization", "STRIPE_API_KEY", "csrf_token", "Cookie"]
)
def test_a_field_whose_name_promises_a_secret_is_not_shown(lines, name):
    lines.log.info("said", extra={name: "x1y2z3", "inner": {name: ["x1y2z3"]}})
    assert "x1y2z3" not in lines.text


@pytest.mark.parametrize(
    "text",
    [
        f"order {ORDER} of payment {PAYMENT} at pi_3PabcDEF012345 ch_3Pabc",
        "GET http://127.0.0.1:8000/api/v1/orders?customer=a@example.com",
        "delivery 1234567890123 of 2026-11-21T04:38:12.123456Z took 12.5 ms, 25700 usd",
        "txn_1PabcDEF and re_3Pabc, request req_01kah5v0qtfq8rsx3m4n2e0f7b",
        "019a1b2c-3d4e-7f50-8123-456789abcdef 123456789012345678",
        "the secret of good soup, and a token of thanks",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_redacting_a_long_line_costs_its_length_not_its_square():
    def seconds(text: str) -> float:
        began = time.process_time()
        redact(text)
        return time.process_time() - began

    for unit in ("a", "pi_", "://", "4 ", "password", "secret=", "bearer ", "ek_0", "x:y@"):
        short, long = seconds(unit * 1_000), seconds(unit * 4_000)
        assert long < 10 * short + 0.2, unit


def test_granian_and_django_name_the_same_formatter():
    django: Any = settings.LOGGING
    granian = json.loads((settings.BASE_DIR / "config" / "granian_log.json").read_text())
    assert granian["formatters"]["ours"] == django["formatters"]["ours"]
    assert {handler["formatter"] for handler in granian["handlers"].values()} == {"ours"}


def test_the_formatter_needs_nothing_of_django():
    code = "import sys, foundation.logs; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
