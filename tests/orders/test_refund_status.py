"""An order's refund_status is what its settling payment's refunds say; a second success that goes back does not count."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orders.selectors import _refund_status


@st.composite
def payments(draw: Any, *, settling: bool) -> SimpleNamespace:
    captured = draw(st.integers(0, 10_000))
    refunded = draw(st.integers(0, captured))
    return SimpleNamespace(
        settling=settling,
        captured_minor=captured,
        refunded_minor=refunded,
        refunds_open_minor=draw(st.integers(0, captured - refunded)),
    )


@given(settled=payments(settling=True), others=st.lists(payments(settling=False), max_size=3), place=st.integers(0, 3))
def test_only_what_settles_the_order_counts(settled, others, place):
    attempts: Any = [*others[:place], settled, *others[place:]]
    status = _refund_status(attempts)
    if settled.refunds_open_minor:
        assert status == "refunding"
    elif not settled.refunded_minor:
        assert status == "none"
    else:
        assert status == ("refunded" if settled.refunded_minor == settled.captured_minor else "partial")


@given(others=st.lists(payments(settling=False), max_size=3))
def test_an_order_that_nothing_settles_has_nothing_refunded(others):
    assert _refund_status(others) == "none"
