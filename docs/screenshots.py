"""Takes the pictures of docs/images/ from a running `make up`, signed in as the manager."""

import json
import os
import sys
from pathlib import Path
from shutil import which
from typing import Any

from playwright.sync_api import Page, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("EVERYCENT_VAR_DIR") or ROOT / "var")
IMAGES = ROOT / "docs" / "images"
VIEWPORT = ViewportSize(width=1440, height=900)


def main() -> int:
    try:
        stack = json.loads((VAR / "stack.json").read_text())
    except OSError:
        print("error: there is no running stack: run `make up` in another terminal first", file=sys.stderr)
        return 1
    chromium = which("chromium") or which("chromium-browser") or which("google-chrome")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=VIEWPORT, color_scheme="light")
        sign_in(page, stack)
        for name, visit in PICTURES.items():
            visit(page, f"{stack['url']}/admin")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=IMAGES / f"{name}.png", full_page=name in WHOLE)
            print(f"docs/images/{name}.png")
        browser.close()
    return 0


def sign_in(page: Page, stack: dict[str, Any]) -> None:
    login = stack["admin"]["manager"]
    page.goto(f"{stack['url']}/admin/login/")
    page.fill("[name=username]", login["username"])
    page.fill("[name=password]", login["password"])
    page.click("button[type=submit]")
    page.wait_for_selector("#dashboard")


def dashboard(page: Page, admin: str) -> None:
    page.goto(f"{admin}/")


def discrepancies(page: Page, admin: str) -> None:
    page.goto(f"{admin}/reconciliation/discrepancy/")


def discrepancy(page: Page, admin: str) -> None:
    """Both sides know it, and do not agree."""
    page.goto(f"{admin}/reconciliation/discrepancy/?kind=status_mismatch")
    page.click("#result_list tbody a")
    page.wait_for_selector(".ec-compare")


def order(page: Page, admin: str) -> None:
    """Its story has a bit of everything, and there is something left to do; its payment has arrived at our bank."""
    page.goto(f"{admin}/payments/refund/?status=succeeded")
    refunds = [link.get_attribute("href") for link in page.query_selector_all("#result_list tbody th a")]
    for refund in refunds:
        page.goto(f"{admin}/../{(refund or '').lstrip('/')}")
        page.click(".ec-facts a[href*='/orders/order/']")
        page.wait_for_selector(".ec-timeline")
        if page.query_selector(".ec-acts") and "partly refunded" in page.inner_text(".ec-head"):
            return


def statement(page: Page, admin: str) -> None:
    """Yesterday: the day of trading."""
    page.goto(f"{admin}/reconciliation/reconciliationrun/statement/")


def walk(page: Page, admin: str) -> None:
    """The same order's money, down to the line of our bank."""
    order(page, admin)
    page.goto(f"{admin}/reconciliation/bankline/walk/?q={page.inner_text('.ec-head .ec-code')}")


PICTURES = {one.__name__: one for one in (dashboard, discrepancies, discrepancy, order, statement, walk)}
# The others are shown as they stand on a screen.
WHOLE = {"dashboard", "order", "statement", "walk"}

if __name__ == "__main__":
    sys.exit(main())
