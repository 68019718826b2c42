"""States change along their tables only: in code, and by raw SQL."""

import pytest
from django.db import Error, IntegrityError, transaction
from django.db.models.functions import Now

from foundation.errors import IllegalTransition
from foundation.transition import transition
from payments import services
from payments.errors import PaymentInProgress
from payments.models import Payment, PaymentHistory
from payments.states import PAYMENT_EDGES, PaymentStatus
from tests.factories import make_merchant

pytestmark = pytest.mark.django_db(transaction=True)


def begin(reference: str = "ord_1", merchant=None) -> Payment:
    number = services.begin_payment(
        merchant_id=merchant or make_merchant().id,
        reference=reference,
        customer="c",
        amount_minor=100,
        currency="usd",
        method="card",
    )
    return Payment.objects.get(pk=Payment.id_of(number))


def move(payment: Payment, to: str) -> None:
    with transaction.atomic():
        transition(payment, to, edges=PAYMENT_EDGES, history=PaymentHistory, by="test")


def test_a_transition_leaves_history():
    payment = begin()
    move(payment, PaymentStatus.CANCELLED)
    assert list(PaymentHistory.objects.values_list("from_state", "to_state", "by")) == [
        ("pending", "cancelled", "test")
    ]


def test_an_edge_that_the_table_does_not_name_is_refused():
    payment = begin()
    move(payment, PaymentStatus.FAILED)
    with pytest.raises(IllegalTransition):
        move(payment, PaymentStatus.PENDING)


def test_a_stale_copy_changes_nothing():
    payment = begin()
    stale = Payment.objects.get(pk=payment.pk)
    move(payment, PaymentStatus.CANCELLED)
    with pytest.raises(IllegalTransition, match="someone else"):
        move(stale, PaymentStatus.FAILED)
    assert Payment.objects.get().status == "cancelled"
    assert PaymentHistory.objects.count() == 1


def test_raw_updates_follow_the_table_too():
    payment = begin()
    move(payment, PaymentStatus.FAILED)
    with pytest.raises(Error, match="Invalid transition"):
        Payment.objects.update(status="pending")


@pytest.mark.guard(5)
def test_a_reference_has_one_live_attempt():
    payment = begin("ord_1")
    with pytest.raises(PaymentInProgress):
        begin("ord_1", payment.merchant_id)
    move(payment, PaymentStatus.CANCELLED)
    begin("ord_1", payment.merchant_id)


@pytest.mark.guard(5)
def test_a_reference_is_settled_once():
    first = begin("ord_1")
    move(first, PaymentStatus.CANCELLED)
    second = begin("ord_1", first.merchant_id)
    Payment.objects.filter(pk=first.pk).update(settling=True)
    with pytest.raises(IntegrityError, match="payment_one_settles_a_reference"):
        Payment.objects.filter(pk=second.pk).update(settling=True)


def test_refunds_beyond_the_capture_are_refused_by_postgresql():
    payment = begin()
    Payment.objects.filter(pk=payment.pk).update(status="succeeded", captured_minor=100, captured_at=Now())
    with pytest.raises(IntegrityError, match="payment_refunds_within_captured"):
        Payment.objects.update(refunds_committed_minor=101)
