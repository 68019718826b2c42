"""The page of docs/storefront.md in a browser: what it asks the shop's server for, and what it tells Stripe.js."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, sync_playwright

from payments.examples import CONFIRMABLE
from tests.browser import CHROMIUM, launch

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "storefront.md").read_text()
HTML = PAGE.partition("```html\n")[2].partition("```")[0]
SERVER = {"client_secret": CONFIRMABLE["client_secret"], "order": CONFIRMABLE["order"]}
# What https://docs.stripe.com/js names; it declines once, and sends the buyer on after that.
STRIPE_JS = """
window.told = [];
window.Stripe = (key) => ({
  elements: ({ clientSecret }) => ({
    clientSecret,
    create: (kind) => ({ mount: (where) => { told.push(["mounted", kind, where, document.querySelector(where) !== null]); } }),
  }),
  confirmPayment: async ({ elements, confirmParams }) => {
    told.push(["confirmed", elements.clientSecret, confirmParams.return_url]);
    return { error: { message: "Your card was declined." } };
  },
});
"""


def test_the_page_confirms_with_the_secret_and_can_try_another_card():
    with ThreadPoolExecutor(1) as pool:  # the event loop of a browser and Django do not share a thread
        told, message, disabled = pool.submit(visit).result()
    confirmed = ["confirmed", SERVER["client_secret"], f"http://shop.example/thank-you?order={SERVER['order']}"]
    assert told == [["mounted", "payment", "#payment-element", True], confirmed, confirmed]
    assert message == "Your card was declined."
    assert disabled is False


def visit() -> tuple[Any, Any, Any]:
    def serve(route: Route) -> None:
        address = route.request.url
        if address.startswith("https://js.stripe.com/"):
            route.fulfill(body=STRIPE_JS, content_type="text/javascript")
        elif address.endswith("/cart/checkout") and route.request.method == "POST":
            route.fulfill(body=json.dumps(SERVER), content_type="application/json")
        else:
            route.fulfill(body=f"<!doctype html><meta charset=utf-8>{HTML}", content_type="text/html")

    with sync_playwright() as play:
        browser = launch(play)
        page = browser.new_page()
        page.route("**/*", serve)
        page.goto("http://shop.example/cart")
        page.wait_for_function("window.told && told.length == 1")
        for confirmations in (1, 2):
            page.click("text=Pay")
            page.wait_for_function(
                f"told.length == {confirmations + 1} && !document.querySelector('#pay button').disabled"
            )
        seen = page.evaluate("[told, document.querySelector('#message').textContent]")
        disabled = page.evaluate("document.querySelector('#pay button').disabled")
        browser.close()
    return seen[0], seen[1], disabled
