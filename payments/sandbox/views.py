"""How a stored object is shown: private fields dropped, computed ones filled in, `expand` followed."""

from payments.sandbox.account import Account
from payments.sandbox.errors import InvalidParameter
from payments.sandbox.store import Json

EXPAND_DEPTH = 4
# Which fields of a kind hold the id of another object.
EXPANDABLE = {
    "payment_intent": {"latest_charge", "payment_method", "customer"},
    "charge": {"balance_transaction", "failure_balance_transaction", "payment_intent", "customer"},
    "refund": {"balance_transaction", "failure_balance_transaction", "charge", "payment_intent", "payment_method"},
    "balance_transaction": {"source"},
    "dispute": {"charge", "payment_intent"},
    "payout": {"balance_transaction", "failure_balance_transaction"},
}  # fmt: skip
# Already there in full: expanding them changes nothing.
EMBEDDED = {("charge", "refunds"), ("dispute", "balance_transactions")}
EMBEDDED_REFUNDS = 10


def present(account: Account, obj: Json) -> Json:
    shown = {name: value for name, value in obj.items() if name[0] != "_"}
    if obj["object"] == "balance_transaction":
        shown["status"] = "available" if obj["available_on"] <= account.now() else "pending"
    elif obj["object"] == "dispute":
        shown["balance_transactions"] = [present(account, row) for row in obj["balance_transactions"]]
    elif obj["object"] == "charge" and obj.get("_refunds"):
        newest = [account.store.get("refund", refund_id) for refund_id in obj["_refunds"][::-1][:EMBEDDED_REFUNDS]]
        data = [present(account, refund) for refund in newest if refund is not None]
        shown["refunds"] = {**obj["refunds"], "data": data, "has_more": len(obj["_refunds"]) > EMBEDDED_REFUNDS}
    elif obj["object"] == "event":
        query = "SELECT count(*) FROM deliveries WHERE event_id = ?"
        shown["pending_webhooks"] = account.store.execute(query, (obj["id"],)).fetchone()[0]
    return shown


def expand(account: Account, shown: Json, paths: list[str]) -> Json:
    """Follow `expand[]` in an answer: `latest_charge.balance_transaction`, and `data.source` in a list."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > EXPAND_DEPTH:
            raise InvalidParameter(
                f"You cannot expand more than {EXPAND_DEPTH} levels of a property: {path}.", param="expand"
            )
        _follow(account, shown, steps, path)
    return shown


def _follow(account: Account, node: Json, steps: list[str], path: str) -> None:
    if not steps:
        return
    field, rest = steps[0], steps[1:]
    kind = node.get("object")
    if kind == "list" and field == "data" and rest:
        for item in node["data"]:
            _follow(account, item, rest, path)
    elif (kind, field) in EMBEDDED:
        if rest and isinstance(node[field], dict):
            _follow(account, node[field], rest, path)
    elif field in EXPANDABLE.get(str(kind), ()):
        value = node.get(field)
        if isinstance(value, str):
            found = account.store.find(value)
            value = node[field] = value if found is None else present(account, found)
        if isinstance(value, dict):
            _follow(account, value, rest, path)
    else:
        hint = f" You may want to try expanding 'data.{path}' instead." if kind == "list" else ""
        raise InvalidParameter(f"This property cannot be expanded ({path}).{hint}", param="expand")
