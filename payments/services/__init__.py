"""Everything that writes payments, refunds and the ledger."""

from payments.services.attempts import (
    begin_payment,
    cancel_at_provider,
    cancel_never_sent,
    client_secret,
    close_intent,
    open_at_provider,
    plan_payment,
    record_cancelling,
    record_opening,
)
from payments.services.books import (
    adjust_entry,
    check_books,
    cut_books,
    forget_late_changes,
    reverse_entry,
    seal_books,
)
from payments.services.credit_grants import approve_grant, grant_store_credit, refuse_grant
from payments.services.decisions import end_unanswered, is_unanswered, settled_by_hand
from payments.services.desk import (
    adopt_charge,
    adopt_refund,
    mark_fraud,
    post_correction,
    record_overcharge,
    take_provider_status,
)
from payments.services.disputes import sync_dispute
from payments.services.inbox import (
    catch_up_since,
    receive_webhook,
    replay_event,
    replay_events,
    replay_events_about,
)
from payments.services.links import link_charge, link_refund
from payments.services.payment_news import take_credit
from payments.services.payouts import sync_payout
from payments.services.provider_books import (
    correct_bank,
    correct_fee,
    post_booking,
    post_learnt_fees,
    post_opening_balance,
    write_off_balance,
)
from payments.services.refund_sending import (
    flag_refund,
    post_refund,
    record_refund,
    refund_at_provider,
    release_refundable,
)
from payments.services.refunds import approve_refund, refund_again, reject_refund, request_refund
from payments.services.rereads import open_count, recheck_due, recheck_open, sync_payment, sync_refund
from payments.services.sales import post_sale, reverse_sale

__all__ = [
    "adjust_entry",
    "adopt_charge",
    "adopt_refund",
    "approve_grant",
    "approve_refund",
    "begin_payment",
    "cancel_at_provider",
    "cancel_never_sent",
    "catch_up_since",
    "check_books",
    "client_secret",
    "close_intent",
    "correct_bank",
    "correct_fee",
    "cut_books",
    "end_unanswered",
    "flag_refund",
    "forget_late_changes",
    "grant_store_credit",
    "is_unanswered",
    "link_charge",
    "link_refund",
    "mark_fraud",
    "open_at_provider",
    "open_count",
    "plan_payment",
    "post_booking",
    "post_correction",
    "post_learnt_fees",
    "post_opening_balance",
    "post_refund",
    "post_sale",
    "receive_webhook",
    "recheck_due",
    "recheck_open",
    "record_cancelling",
    "record_opening",
    "record_overcharge",
    "record_refund",
    "refund_again",
    "refund_at_provider",
    "refuse_grant",
    "reject_refund",
    "release_refundable",
    "replay_event",
    "replay_events",
    "replay_events_about",
    "request_refund",
    "reverse_entry",
    "reverse_sale",
    "seal_books",
    "settled_by_hand",
    "sync_dispute",
    "sync_payment",
    "sync_payout",
    "sync_refund",
    "take_credit",
    "take_provider_status",
    "write_off_balance",
]
