"""Catalogue and stock at the desk: what two people change at once, marks and charts, and lists as files."""

import csv
import io
import json
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.urls import reverse

from catalog import services as catalog
from catalog.models import Merchant, Product
from foundation.database import database_now
from inventory import services as inventory
from inventory.models import Stock, StockCheck, StockMovement
from inventory.types import Line
from tests.admin.conftest import act_url, list_url, page_url
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant(name="Corner")


@pytest.fixture
def manager(as_role):
    return as_role("manager")


def press(client, row, act, **fields):
    return client.post(act_url(row, act), {f"{act}-{name}": value for name, value in fields.items()}, follow=True)


def form_of(answer, act):
    return next(offered.form for offered in answer.context["acts"] if offered.act.name == act)


def exported(client, model, **query):
    """The rows of a list's export, by column."""
    answer = client.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_export"), query)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode(), newline="")))


# --- Two people ---


def test_a_product_that_somebody_changed_meanwhile_is_not_overwritten(manager, merchant):
    offer = make_product(merchant)
    row = Product.objects.get(pk=offer.id)
    form = form_of(manager.get(page_url(row)), "change")
    typed = {**form.initial, "description": "Signed.", "note": "came back signed"}
    catalog.update_product(merchant_id=merchant.id, product=offer.product, price_minor=9_900)

    refused = press(manager, row, "change", **typed)
    assert refused.status_code == 409
    row.refresh_from_db()
    assert (row.price_minor, row.description) == (9_900, "")
    # The page shows how it stands now, what was typed is kept, and sending it again is a decision.
    again = form_of(refused, "change")
    assert again["description"].value() == "Signed."
    press(manager, row, "change", **_as_shown(again))
    row.refresh_from_db()
    assert row.description == "Signed."


def _as_shown(form):
    return {name: form[name].value() for name in form.fields}


def test_a_count_of_stock_that_moved_meanwhile_is_refused_and_can_be_sent_again(manager, merchant):
    offer = make_product(merchant, stock=10)
    row = Stock.objects.get(pk=offer.id)
    typed = {**form_of(manager.get(page_url(row)), "adjust").initial, "change": "-3", "note": "three are missing"}
    inventory.reserve(merchant_id=merchant.id, reference="ord_1", lines=[Line(offer.id, offer.product, 1)], by="x")
    inventory.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="x")

    refused = press(manager, row, "adjust", **typed)
    assert refused.status_code == 409
    assert "9 are on hand now" in refused.content.decode()
    row.refresh_from_db()
    assert row.on_hand == 9
    press(manager, row, "adjust", **_as_shown(form_of(refused, "adjust")))
    row.refresh_from_db()
    assert row.on_hand == 6
    assert StockMovement.objects.latest("pk").reason == "three are missing"


# --- New things ---


def test_a_product_is_listed_with_its_own_id_image_and_metadata(manager, merchant):
    shop = Merchant.objects.get(pk=merchant.id)
    fields = {
        "product": "dust-1",
        "title": "Dust",
        "price": "9.90",
        "isbn": "0-439-02348-3",
        "image_url": "https://covers.example/dust.jpg",
        "metadata": '{"shelf": "A3"}',
        "published": "on",
        "note": "new",
    }
    assert "dust-1" in press(manager, shop, "product", **fields).content.decode()
    row = Product.objects.get(product_id="dust-1")
    assert (row.isbn, row.price_minor, row.metadata) == ("9780439023481", 990, {"shelf": "A3"})
    assert row.image_url == "https://covers.example/dust.jpg"
    assert press(manager, shop, "product", **{**fields, "isbn": ""}).status_code == 409  # the id is taken
    assert press(manager, shop, "product", **{**fields, "product": "a/b", "isbn": ""}).status_code == 400


def test_a_product_that_never_had_stock_is_restocked_from_its_page(manager, merchant):
    offer = make_product(merchant)
    row = Stock(pk=offer.id)
    page = manager.get(page_url(row)).content.decode()
    assert "Nothing has moved yet" in page
    press(manager, row, "restock", quantity="4", note="first delivery", key=uuid4())
    assert Stock.objects.get(pk=offer.id).on_hand == 4
    assert manager.get(page_url(Stock(pk=uuid4()))).status_code == 404


# --- Marks and the chart ---


def marks(page, text, tone):
    return page.count(f'<span class="ec-badge ec-{tone}" title="">{text}</span>')


def test_low_stock_is_marked_listed_and_counted(manager, merchant, as_role):
    shelf = {"Scarce": 3, "Plenty": 30, "Gone": 1}
    offers = {title: make_product(merchant, stock=stock, title=title) for title, stock in shelf.items()}
    rows = {title: Stock.objects.get(pk=offer.id) for title, offer in offers.items()}
    for row in rows.values():
        press(manager, row, "threshold", threshold="3", note="a week's sales")
    gone = offers["Gone"].product
    inventory.deduct(merchant_id=merchant.id, product=gone, quantity=1, reference="r", key="k", by="x")
    assert LogEntry.objects.filter(change_message__contains="a week's sales").count() == 3

    every = manager.get(list_url(Stock)).content.decode()
    assert (marks(every, "low", "warn"), marks(every, "sold out, low", "bad")) == (1, 1)
    few = manager.get(list_url(Stock), {"level": "low"}).content.decode()
    assert [title for title in shelf if title in few] == ["Scarce", "Gone"]
    assert marks(manager.get(page_url(rows["Scarce"])).content.decode(), "low", "warn") == 1
    figures = as_role("clerk").get("/admin/").context["figures"]
    assert [figure.values for figure in figures if figure.name == "Low stock"] == [['<span class="ec-money">2</span>']]
    press(manager, rows["Scarce"], "threshold", threshold="", note="no more of it")
    assert "Scarce" not in manager.get(list_url(Stock), {"level": "low"}).content.decode()
    assert press(as_role("clerk"), rows["Gone"], "threshold", threshold="1", note="me").status_code == 403


def test_a_products_page_draws_its_stock(manager, merchant):
    offer = make_product(merchant, stock=10)
    inventory.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=2)
    inventory.reserve(merchant_id=merchant.id, reference="ord_1", lines=[Line(offer.id, offer.product, 4)], by="x")
    page = manager.get(page_url(Stock.objects.get(pk=offer.id))).context["page"]
    (chart,) = [section for section in page.main if section.title == "On hand and available"]
    data = json.loads(chart.values["data"])
    lines = {line["label"]: line["data"] for line in data["datasets"]}
    assert data["labels"][-1] == "now"
    assert (lines["On hand"][-1], lines["Available"][-1], lines["Low from"][-1]) == (10, 6, 2)
    assert {len(line) for line in lines.values()} == {len(data["labels"])}


def test_the_proof_of_the_stock_is_read_at_the_desk(as_role, merchant):
    offer = make_product(merchant, stock=5)
    Stock.objects.filter(pk=offer.id).update(on_hand=7)
    inventory.check_stock(day=database_now().date())
    page = as_role("clerk").get(page_url(StockCheck.objects.get())).content.decode()
    assert "7 are on hand, the log adds up to 5" in page
    assert offer.product in page


# --- Lists as files ---


def test_an_export_holds_what_the_list_shows_and_no_more(as_role, merchant):
    other = make_merchant(name="Other")
    make_product(merchant, product="a", title="Émile", published=True)
    make_product(merchant, product="b", title="Emily", published=False)
    make_product(other, product="c", title="Emilia")
    clerk = as_role("clerk")
    assert {row["id"] for row in exported(clerk, Product)} == {"a", "b", "c"}
    assert [row["id"] for row in exported(clerk, Product, published="False")] == ["b"]
    assert [row["id"] for row in exported(clerk, Product, merchant=str(merchant.id))] == ["b", "a"]
    assert [row["id"] for row in exported(clerk, Product, q="emile")] == ["a"]
    assert exported(clerk, Product, merchant="nonsense") == []
    listed = clerk.get(list_url(Product), {"published": "False"}).content.decode()
    assert 'href="export/?published=False"' in listed


def test_an_export_is_read_in_batches(as_role, merchant, settings):
    settings.EXPORT_BATCH = 2
    made = [make_product(merchant).product for _ in range(5)]
    assert [row["id"] for row in exported(as_role("clerk"), Product)] == made[::-1]


def test_who_may_not_see_a_list_may_not_export_it(as_role, merchant, client):
    url = reverse("admin:catalog_product_export")
    assert as_role("nobody").get(url).status_code == 403
    assert client.get(url).status_code == 302  # to the sign-in


def test_stock_and_its_log_are_exported(as_role, merchant):
    offer = make_product(merchant, stock=10)
    inventory.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=10)
    inventory.adjust(merchant_id=merchant.id, product=offer.product, change=-1, key="c", by="=cmd", reason="-1 counted")
    clerk = as_role("clerk")
    (row,) = exported(clerk, Stock, level="low")
    assert (row["product"], row["on_hand"], row["low_threshold"], row["is_low"]) == (offer.product, "9", "10", "true")
    newest, _ = exported(clerk, StockMovement)
    # What a person typed cannot run in a spreadsheet; a negative number is one.
    assert (newest["by"], newest["reason"], newest["on_hand_change"]) == ("'=cmd", "'-1 counted", "-1")


def test_what_was_exported_is_imported_and_changes_nothing(as_role, merchant, tmp_path, capsys):
    nasty: dict[str, Any] = {
        "a": {"title": "=HYPERLINK(1)", "author": "'=quoted", "description": 'two\nlines, and "quotes"'},
        "b": {"title": "微服务", "author": "", "isbn": "0439023483", "metadata": {"n": [1, None, "é"], "year": "2008"}},
        "c": {"title": "-5", "published": False, "image_url": "https://covers.example/c.jpg", "price_minor": 0},
        "d": {"title": "'''@", "currency": "jpy", "price_minor": 120},
    }
    for product, fields in nasty.items():
        make_product(merchant, product=product, **fields)
    answer = as_role("clerk").get(reverse("admin:catalog_product_export"))
    file = tmp_path / "products.csv"
    file.write_bytes(b"".join(answer.streaming_content))

    columns: tuple[str, ...] = ("product_id", "isbn", "title", "author", "price_minor", "currency", "published")
    columns += ("description", "image_url", "metadata")
    before = list(Product.objects.order_by("pk").values(*columns, "updated_at", "version"))
    call_command("import_catalog", str(file), "--merchant", "Corner")
    assert "0 created, 0 changed, 4 unchanged, 0 refused" in capsys.readouterr().out
    assert list(Product.objects.order_by("pk").values(*columns, "updated_at", "version")) == before

    other = make_merchant(name="Copy")
    call_command("import_catalog", str(file), "--merchant", "Copy")
    copies = Product.objects.order_by("product_id").values(*columns)
    assert list(copies.filter(merchant_id=other.id)) == list(copies.filter(merchant_id=merchant.id))
