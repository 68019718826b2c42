"""What people are told: by e-mail as text and as HTML, and by text message; once, and never what is not theirs."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.mail import EmailMultiAlternatives
from django.core.management import call_command
from django.db import transaction

from durability.models import Delivery
from foundation import sms
from orders import selectors
from orders.models import Order
from orders.services import letters
from payments import gateway
from payments.events import DisputeOpened, RefundFailed
from payments.locks import lock_refund
from payments.models import Refund
from payments.services import refund_news
from tests.shop import Shop, open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def html(message: Any) -> str:
    (alternative,) = message.alternatives
    assert alternative.mimetype == "text/html"
    return str(alternative.content)


def both(message: Any) -> Sequence[str]:
    return message.body, html(message)


def named(mailoutbox: list[Any], subject: str) -> Any:
    (message,) = [one for one in mailoutbox if one.subject == subject]
    return message


class NotedSms:
    """A backend that remembers."""

    sent: list[tuple[str, str, str]] = []

    def send(self, *, to: str, text: str, key: str) -> None:
        self.sent.append((to, text, key))


@pytest.fixture
def texts(settings) -> list[tuple[str, str, str]]:
    settings.SMS_BACKEND = f"{__name__}.NotedSms"
    NotedSms.sent = []
    return NotedSms.sent


# --- What they say ----------------------------------------------------------------------------------


def test_a_receipt_names_the_shop_the_lines_and_the_total(shop, mailoutbox):
    number = shop.bought(quantity=2)["number"]
    message = named(mailoutbox, f"Your order {number}")
    name = letters.about(selectors.get_order(number))["sender"]
    assert message.to == ["reader@example.com"]
    assert message.from_email == f"{name} <shop@everycent.example>"
    for text in both(message):
        assert name in text
        assert "The book of book" in text
        assert "$30.00" in text
        assert number in text
        assert "secret" not in text
        assert "pi_" not in text
    assert "2 × $15.00" in html(message)


def test_amounts_are_written_as_their_currency_is(transactional_db, valkey, sandbox, mailoutbox):
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop()
    shop.stock("book", 1, price=1500, currency="jpy")
    shop.bought()
    for text in both(mailoutbox[0]):
        assert "¥1,500" in text


def test_a_title_is_text_and_never_markup(shop, mailoutbox):
    order = Order.objects.get(pk=Order.id_of(shop.checkout().json()["order"]["number"]))
    view = selectors.get_order(order.number)
    object.__setattr__(view.items[0], "title", "<b>Bobby & Tables</b>")
    message = letters.receipt(view)
    assert "<b>Bobby & Tables</b>" in message.body
    assert "&lt;b&gt;Bobby &amp; Tables&lt;/b&gt;" in html(message)


def test_a_shops_name_cannot_become_a_header():
    message = letters.compose(
        "receipt",
        key="k",
        to=["a@example.com"],
        subject="s",
        context={"sender": 'A "Shop"\r\nBcc: victim@example.com', "order": None},
    )
    assert message.message()["From"] == '"A \\"Shop\\" Bcc: victim@example.com" <shop@everycent.example>'
    assert message.message()["Bcc"] is None


def test_shipping_tells_the_carrier_and_the_tracking_number(shop, mailoutbox):
    number = shop.bought()["number"]
    shop.post(f"/orders/{number}/ship", {"carrier": "Post", "tracking": "RX 7"})
    settle()
    for text in both(named(mailoutbox, f"Your order {number} is on its way")):
        assert "Post" in text
        assert "RX 7" in text


def test_a_cancelled_order_tells_that_what_was_paid_goes_back(shop, mailoutbox):
    number = shop.bought()["number"]
    shop.post(f"/orders/{number}/cancel")
    settle()
    for text in both(named(mailoutbox, f"Your order {number} is cancelled")):
        assert "$15.00" in text
    assert named(mailoutbox, "Your refund of $15.00")


def test_of_an_order_that_nobody_paid_nothing_is_said(shop, mailoutbox):
    number = shop.checkout().json()["order"]["number"]
    shop.post(f"/orders/{number}/cancel")
    settle()
    assert shop.order(number)["status"] == "cancelled"
    assert mailoutbox == []
    # A hundred thousand may expire at once: merchants alone hear of it.
    assert set(Delivery.objects.filter(key=number).values_list("handler", flat=True)) == {"orders.call_merchant_ended"}


def test_a_refund_names_its_amount(shop, mailoutbox):
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"amount": 1234, "reason": "a torn page"})
    settle()
    for text in both(named(mailoutbox, "Your refund of $12.34")):
        assert Refund.objects.get().number in text


def failed(*, late: bool) -> RefundFailed:
    return RefundFailed(
        refund="ref_1",
        payment="pay_1",
        merchant_id="",
        reference="ord_1",
        amount_minor=1500,
        currency="usd",
        provider_reference="re_1",
        late=late,
    )


@pytest.mark.parametrize(
    ("late", "subject"), [(True, "A refund of $15.00 came back"), (False, "A refund of $15.00 failed")]
)
def test_staff_is_told_of_a_refund_that_failed(settings, mailoutbox, late, subject):
    settings.STAFF_EMAILS = ["finance@example.com", "no address"]
    settings.PUBLIC_URL = "https://desk.example/"
    letters.warn_of_failed_refund(event=failed(late=late))
    message = named(mailoutbox, subject)
    assert message.to == ["finance@example.com"]
    for text in both(message):
        assert "https://desk.example/admin/payments/refund/?q=ref_1" in text


def test_a_refund_that_comes_back_is_told_to_staff_by_itself(shop, sandbox, settings, mailoutbox):
    settings.STAFF_EMAILS = ["finance@example.com"]
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    settle()
    refund = Refund.objects.get()
    came_back = replace(gateway.retrieve_refund(refund.provider_reference or ""), status="failed")
    with transaction.atomic():
        refund_news.apply_refund(*lock_refund(refund.pk), came_back, by="test")
    settle(webhooks=False)
    assert named(mailoutbox, "A refund of $15.00 came back").to == ["finance@example.com"]


@pytest.mark.parametrize(
    ("inquiry", "subject"), [(True, "A bank asks about $15.00"), (False, "A payment of $15.00 is disputed")]
)
def test_staff_is_told_of_a_dispute_and_until_when_to_answer(settings, mailoutbox, inquiry, subject):
    settings.STAFF_EMAILS = ["finance@example.com"]
    opened = DisputeOpened(
        dispute="dsp_1",
        payment="pay_1",
        merchant_id="",
        reference="ord_1",
        amount_minor=1500,
        currency="usd",
        provider_reference="dp_1",
        reason="product_not_received",
        inquiry=inquiry,
        evidence_due_at="2026-12-01T23:59:00+00:00",
    )
    letters.warn_of_dispute(event=opened)
    letters.warn_of_dispute(event=replace(opened, evidence_due_at="2027-01-05T23:59:00+00:00"))
    first, again = mailoutbox
    assert first.subject == subject
    for text in both(first):
        assert "01 December 2026, 23:59 UTC" in text
        assert "product not received" in text
    assert first.extra_headers["Message-ID"] != again.extra_headers["Message-ID"]


def test_nobody_is_told_where_staff_named_nobody(settings, mailoutbox):
    settings.STAFF_EMAILS = []
    letters.warn_of_failed_refund(event=failed(late=False))
    assert mailoutbox == []


# --- To whom, and how often -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["", "not an address", "two@example.com, three@example.com", "a@b\nBcc: c@example.com"]
)
def test_who_left_no_address_is_not_written_to(shop, mailoutbox, address):
    number = shop.bought()["number"]
    mailoutbox.clear()
    Order.objects.filter(pk=Order.id_of(number)).update(customer_email=address)
    letters.send_receipt(number=number)
    assert mailoutbox == []


def test_a_letter_that_is_sent_again_can_be_dropped_as_a_repeat(shop, mailoutbox):
    number = shop.bought()["number"]
    letters.send_receipt(number=number)
    ids = [one.extra_headers["Message-ID"] for one in mailoutbox if one.subject == f"Your order {number}"]
    assert ids == [f"<receipt.{number}@everycent.example>"] * 2
    other = shop.bought()["number"]
    assert f"<receipt.{other}@everycent.example>" in [one.extra_headers["Message-ID"] for one in mailoutbox]


def test_two_letters_about_one_order_are_two(shop):
    order = selectors.get_order(shop.bought()["number"])
    written: list[EmailMultiAlternatives] = [
        letters.receipt(order),
        letters.shipment(order),
        letters.cancellation(order),
        letters.refund_note(order, refund="ref_1", amount_minor=1),
        letters.refund_note(order, refund="ref_2", amount_minor=1),
    ]
    assert len({one.extra_headers["Message-ID"] for one in written}) == len(written)


# --- Text messages ----------------------------------------------------------------------------------


def sold_to(shop: Shop, phone: str) -> str:
    customer = {"id": str(uuid4()), "phone": phone}
    number: str = shop.checkout(payment=CONFIRMED, customer=customer).json()["order"]["number"]
    settle()
    return number


def test_who_left_a_number_gets_a_text_message_under_one_key(shop, texts):
    number = sold_to(shop, "+41 (79) 123-45-67")
    shop.post(f"/orders/{number}/ship", {"carrier": "Post"})
    settle()
    assert [(to, key) for to, _, key in texts] == [
        ("+41791234567", f"receipt.{number}"),
        ("+41791234567", f"shipment.{number}"),
    ]
    assert "$15.00" in texts[0][1]
    assert "Post" in texts[1][1]


@pytest.mark.parametrize("phone", ["ring me", "12"])
def test_what_is_no_number_is_not_texted(shop, texts, phone):
    sold_to(shop, phone)
    assert texts == []
    assert not Delivery.objects.exclude(state="done").exists()


def test_the_console_shows_no_number(caplog):
    with caplog.at_level(logging.INFO, logger="foundation.sms"):
        sms.send(to="+41791234567", text="your card 4242424242424242", key="k")
    assert "4567" not in caplog.text
    assert "…67" in caplog.text
    assert "4242424242424242" not in caplog.text


# --- For people who write them ----------------------------------------------------------------------


def test_every_letter_can_be_looked_at(shop, tmp_path, mailoutbox):
    number = shop.bought()["number"]
    mailoutbox.clear()
    call_command("preview_emails", number, "--out", str(tmp_path), stdout=StringIO())
    pages = {page.name for page in tmp_path.glob("*.html")}
    assert pages == {page.name.replace(".txt", ".html") for page in tmp_path.glob("*.txt")}
    assert len(pages) == 8
    assert mailoutbox == []
