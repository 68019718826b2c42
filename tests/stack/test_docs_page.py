"""/api/docs in a browser that reaches nothing but the stack, under the policy that the stack sends."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import Route, sync_playwright

from tests.browser import CHROMIUM, launch
from tests.contract import operations

pytestmark = pytest.mark.stack


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_works_offline(stack):
    with ThreadPoolExecutor(1) as pool:  # the event loop of a browser and Django do not share a thread
        seen = pool.submit(visit, stack.info["url"]).result()
    assert seen["calls"] == len(list(operations()))
    assert "POST/api/v1/checkoutCheck out" in seen["first"]
    assert "insufficient_stock" in seen["opened"]
    assert seen["elsewhere"] == []
    assert seen["complaints"] == []


def visit(url: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"elsewhere": [], "complaints": []}

    def only_here(route: Route) -> None:
        if route.request.url.startswith((url, "data:")):
            route.continue_()
        else:
            seen["elsewhere"].append(route.request.url)
            route.abort()

    with sync_playwright() as play:
        browser = launch(play)
        page = browser.new_page()
        page.route("**/*", only_here)
        page.on("pageerror", lambda error: seen["complaints"].append(str(error)))
        page.on("console", lambda said: seen["complaints"].append(said.text) if said.type == "error" else None)
        page.goto(f"{url}/api/docs")
        page.wait_for_selector(".opblock")
        seen["calls"] = page.locator(".opblock").count()
        first = page.locator(".opblock").first
        seen["first"] = first.inner_text().replace("\n", "").replace("\u200b", "")
        first.click()
        page.wait_for_selector(".responses-table")
        seen["opened"] = first.inner_text()
        browser.close()
    return seen
