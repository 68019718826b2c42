"""manage.py import_catalog"""

import csv
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from catalog import services
from catalog.management.commands import import_catalog
from catalog.models import Product
from tests.factories import api_client, make_key, make_merchant, make_product

pytestmark = pytest.mark.django_db

BOOKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "books.csv"
HEADER = "id,isbn,title,author,year,language"
GOOD = """\
1,0439023483,"The Hunger Games (The Hunger Games, #1)",Suzanne Collins,2008,eng
2,,الفيل الأزرق,أحمد مراد,2012,ara
3,978-0-316-01584-4,Twilight,Stephenie Meyer,2005,en-US
"""


@pytest.fixture
def merchant():
    return make_merchant(name="Corner")


@pytest.fixture
def run(tmp_path, merchant):
    def import_file(text, *options):
        """(exit code, lines on stdout)"""
        path = tmp_path / "books.csv"
        path.write_bytes(text if isinstance(text, bytes) else f"{text}".encode())
        out = StringIO()
        code: Any = 0
        try:
            call_command("import_catalog", str(path), *options, stdout=out)
        except SystemExit as end:
            code = end.code
        return code, out.getvalue().splitlines()

    return import_file


def test_good_rows_land_published_at_the_given_price(run, merchant):
    code, lines = run(f"{HEADER}\n{GOOD}", "--currency", "eur", "--price", "990")
    assert (code, lines) == (0, ["Corner: 3 created, 0 changed, 0 unchanged, 0 refused"])
    api = api_client(make_key(merchant, ["storefront"]))
    assert api.get("/api/v1/products/1").json() == {
        "id": "1",
        "isbn": "9780439023481",
        "title": "The Hunger Games (The Hunger Games, #1)",
        "author": "Suzanne Collins",
        "price": 990,
        "currency": "eur",
        "description": "",
        "image_url": "",
        "metadata": {"year": "2008", "language": "eng"},
        "published": True,
        "created_at": api.get("/api/v1/products/1").json()["created_at"],
    }
    assert api.get("/api/v1/products/2").json()["isbn"] is None
    assert [row["id"] for row in api.get("/api/v1/products?search=الفيل").json()["data"]] == ["2"]


def test_a_second_import_changes_nothing(run):
    run(f"{HEADER}\n{GOOD}")
    before = list(Product.objects.order_by("pk").values())
    assert run(f"{HEADER}\n{GOOD}") == (0, ["Corner: 0 created, 0 changed, 3 unchanged, 0 refused"])
    assert list(Product.objects.order_by("pk").values()) == before


def test_bad_rows_are_named_in_their_order_and_the_others_land(run, tmp_path):
    rows = [
        "1,0439023483,The Hunger Games,Suzanne Collins,2008,eng",
        "2,0439023482,Wrong check digit,A,2008,eng",
        "3,,,No title,2008,eng",
        ",,No id,A,2008,eng",
        "5,,Too,few",
        "1,,Same id again,A,2008,eng",
        "7,9780439023481,Same ISBN in its other form,A,2008,eng",
        '8,,"Quotes ""inside"" and a',
        'line break",A,2008,eng',
        "a/b,,Id with a slash,A,2008,eng",
        f"11,,{'x' * 501},A,2008,eng",
        "12,,Last,A,2008,eng",
        '13,,"never closed,A,2008,eng',
        "14,,swallowed,A,2008,eng",
    ]
    report = tmp_path / "refused.csv"
    code, lines = run("\n".join([HEADER, *rows]), "--report", str(report))
    assert code == 1
    assert lines == [
        "line 3: ISBN 0439023482 is not valid: wrong length or check digit",
        "line 4: has no title",
        "line 5: has no id",
        "line 6: has 4 fields where the header names 6",
        "line 7: id 1 is already on line 2",
        "line 8: ISBN 9780439023481 is already on line 2",
        "line 11: id a/b is not 1 to 64 letters, digits and . _ ~ : -",
        "line 12: title is longer than 500 characters",
        "line 14: is not CSV (up to line 15): unexpected end of data",
        "Corner: 3 created, 0 changed, 0 unchanged, 9 refused",
    ]
    assert set(Product.objects.values_list("product_id", flat=True)) == {"1", "8", "12"}
    with report.open(newline="") as file:
        assert [f"line {line}: {reason}" for line, reason in list(csv.reader(file))[1:]] == lines[:-1]


def test_an_isbn_of_another_product_is_not_taken_over(run, merchant):
    make_product(merchant, product="mine", isbn="0439023483")
    code, lines = run(f"{HEADER}\n{GOOD}")
    assert (code, lines[0]) == (1, "line 2: ISBN 9780439023481 belongs to product mine")


def test_a_corrected_file_changes_what_it_corrects(run, merchant):
    run(f"{HEADER}\n{GOOD}")
    _, lines = run(f"{HEADER}\n{GOOD.replace('Twilight', 'Dämmerung')}")
    assert lines == ["Corner: 0 created, 1 changed, 2 unchanged, 0 refused"]
    api = api_client(make_key(merchant))
    assert [row["id"] for row in api.get("/api/v1/products?search=dammerung").json()["data"]] == ["3"]
    assert api.get("/api/v1/products?search=twilight").json()["data"] == []


def test_what_the_file_does_not_say_stays_as_it_is(run, merchant):
    run(f"{HEADER}\n{GOOD}")
    services.update_product(
        merchant_id=merchant.id,
        product="1",
        price_minor=777,
        currency="eur",
        published=False,
        metadata={"shelf": "A3", "year": "2008", "language": "eng"},
    )
    assert run(f"{HEADER}\n{GOOD}", "--price", "2000")[1] == ["Corner: 0 created, 0 changed, 3 unchanged, 0 refused"]
    row = Product.objects.get(product_id="1")
    assert (row.price_minor, row.currency, row.published, row.metadata["shelf"]) == (777, "eur", False, "A3")


def test_a_file_may_name_prices(run):
    text = "title,price,currency,author,id,isbn\nA,100,jpy,X,1,\nB,,,X,2,\nC,1.50,usd,X,3,\nD,5,dollars,X,4,\nE,-5,usd,X,5,\n"
    code, lines = run(text)
    assert code == 1
    assert lines[:-1] == [
        "line 4: price 1.50 is not a whole number of minor units",
        "line 5: currency dollars is not a lower-case ISO 4217 code",
        "line 6: price -5 is not a whole number of minor units",
    ]
    prices = Product.objects.order_by("product_id").values_list("product_id", "price_minor", "currency")
    assert list(prices) == [("1", 100, "jpy"), ("2", 1500, "usd")]
    assert run(text.replace("A,100", "A,120"))[1][-1] == "Corner: 0 created, 1 changed, 1 unchanged, 3 refused"
    assert Product.objects.get(product_id="1").price_minor == 120


def test_a_file_may_say_all_that_the_api_may(run, merchant):
    text = """id,isbn,title,author,published,description,image_url,metadata,year
1,,A,X,false,"Two
lines",https://covers.example/1.jpg,"{""shelf"": ""A3"", ""n"": [1, null]}",2008
2,,B,X,,,,,
3,,C,X,TRUE,,,"{}",
"""
    assert run(text) == (0, ["Corner: 3 created, 0 changed, 0 unchanged, 0 refused"])
    api = api_client(make_key(merchant))
    one = api.get("/api/v1/products/1").json()
    assert (one["published"], one["description"], one["image_url"]) == (
        False,
        "Two\nlines",
        "https://covers.example/1.jpg",
    )
    assert one["metadata"] == {"shelf": "A3", "n": [1, None], "year": "2008"}
    assert {api.get(f"/api/v1/products/{number}").json()["published"] for number in (2, 3)} == {True}
    # What a cell leaves empty stays as it is.
    run(text.replace('false,"Two\nlines",https://covers.example/1.jpg', ",,"))
    assert {**api.get("/api/v1/products/1").json()} == one


def test_what_is_wrong_with_the_other_columns_is_named(run):
    text = f"""id,isbn,title,author,published,description,image_url,metadata
1,,A,X,maybe,,,
2,,B,X,,{"x" * 20_001},,
3,,C,X,,,javascript:alert(1),
4,,D,X,,,https://covers.example/{"x" * 500},
5,,E,X,,,,[]
6,,F,X,,,,"{{""a"": NaN}}"
7,,G,X,,,,"{{""a"": 1, ""a"": 2}}"
8,,H,X,,,,"{{""a"": ""\\u0000""}}"
"""
    code, lines = run(text)
    assert code == 1
    assert lines == [
        "line 2: published maybe is neither true nor false",
        "line 3: description is longer than 20000 characters",
        "line 4: image_url javascript:alert(1) is not a web address",
        "line 5: image_url is longer than 500 characters",
        *(f"line {number}: metadata is not a JSON object" for number in (6, 7, 8, 9)),
        "Corner: 0 created, 0 changed, 0 unchanged, 8 refused",
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "names no column id, isbn, title, author"),
        (GOOD.encode(), [], "names no column"),
        (b"id,isbn,title,title,author\n", [], "title more than once"),
        (f"{HEADER}\n1,,Caf".encode() + b"\xe9,A,2008,eng\n", [], "not UTF-8 (byte 0xe9)"),
        (f"{HEADER}\n{GOOD}".encode("utf-16"), [], "not UTF-8"),
        (f"{HEADER}\n{GOOD}".encode(), ["--currency", "dollars"], "'dollars' is not known"),
        (f"{HEADER}\n{GOOD}".encode(), ["--price", "-1"], "--price is from 0"),
        (f"{HEADER}\n{GOOD}".encode(), ["--merchant", "Nobody"], "no merchant is called Nobody (merchants: Corner)"),
        (f"{HEADER}\n{GOOD}".encode(), ["--report", "/nowhere/report.csv"], "/nowhere/report.csv: No such file"),
    ],
)
def test_what_could_not_run_says_so_in_one_line_and_changes_nothing(run, content, options, message):
    with pytest.raises(CommandError) as failure:
        run(content, *options)
    assert failure.value.returncode == 2
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not Product.objects.exists()


def test_a_missing_file_could_not_run(merchant):
    with pytest.raises(CommandError, match=r"^Not imported: nothing\.csv: No such file or directory$") as failure:
        call_command("import_catalog", "nothing.csv")
    assert failure.value.returncode == 2


def test_with_several_merchants_one_must_be_named(run):
    other = make_merchant(name="Other")
    with pytest.raises(CommandError, match=r"say whose books these are.*Corner, Other"):
        run(f"{HEADER}\n{GOOD}")
    run(f"{HEADER}\n{GOOD}", "--merchant", "Other")
    assert set(Product.objects.values_list("merchant_id", flat=True)) == {other.id}


def test_a_byte_order_mark_and_windows_line_ends_are_fine(run):
    text = f"{HEADER}\n{GOOD}".replace("\n", "\r\n").encode("utf-8-sig")
    assert run(text)[1] == ["Corner: 3 created, 0 changed, 0 unchanged, 0 refused"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_file_gives_signs_of_life(run, monkeypatch, terminal):
    monkeypatch.setattr(import_catalog, "_LINES_BETWEEN_SIGNS_OF_LIFE", 2)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    _, lines = run(f"{HEADER}\n{GOOD}")
    assert lines == [
        *([] if terminal else ["2 lines read", "4 lines read"]),  # a bar takes their place
        "all 4 lines read, now they land",
        "Corner: 3 created, 0 changed, 0 unchanged, 0 refused",
    ]


def test_on_a_terminal_the_bar_is_gone_before_the_rows_are_named(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(f"{HEADER}\n{GOOD}")[1] == ["Corner: 3 created, 0 changed, 0 unchanged, 0 refused"]


@pytest.mark.skipif(not BOOKS.exists(), reason=f"{BOOKS} is not here: ten thousand real books are not imported")
def test_ten_thousand_real_books_in_under_ten_seconds(merchant):
    def run(shop):
        out, begun = StringIO(), time.monotonic()
        with pytest.raises(SystemExit) as end:
            call_command("import_catalog", str(BOOKS), "--merchant", shop, stdout=out)
        return end.value.code, out.getvalue().splitlines(), time.monotonic() - begun

    code, lines, took_s = run("Corner")
    assert (code, lines[-1]) == (1, "Corner: 9,977 created, 0 changed, 0 unchanged, 23 refused")
    assert lines[0] == "line 917: ISBN 0812971060 is not valid: wrong length or check digit"
    if took_s >= 10:  # about two seconds on an idle machine; a busy one gets a second chance
        _, _, took_s = run(make_merchant(name="Second").name)
    assert took_s < 10

    _, lines, _ = run("Corner")
    assert lines[-1] == "Corner: 0 created, 0 changed, 9,977 unchanged, 23 refused"

    api = api_client(make_key(merchant))
    for text, title in [("szpilman", "The Pianist"), ("0439023483", "The Hunger Games"), ("الفيل", "الفيل الأزرق")]:
        found = api.get("/api/v1/products", {"search": text}).json()["data"]
        assert [row["title"][: len(title)] for row in found] == [title]
