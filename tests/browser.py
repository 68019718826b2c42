"""A browser for tests: the Chromium that is installed, without a window."""

from shutil import which

from playwright.sync_api import Browser, Playwright

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")


def launch(play: Playwright) -> Browser:
    return play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
