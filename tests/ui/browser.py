"""The browser of the tests: `python tests/ui/browser.py` says which one starts."""

import shutil
import sys

from playwright.sync_api import Browser, BrowserType, Error, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# A page whose files the tests answer for themselves counts as one from outside.
FLAGS += ["--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets"]


def launched(kind: BrowserType) -> Browser:
    """The first that starts of the system's browsers and the one Playwright installs."""
    problems = []
    for path in (*filter(None, map(shutil.which, BROWSERS)), kind.executable_path):
        try:
            return kind.launch(executable_path=path, args=FLAGS)
        except Error as error:
            problems.append(error.message.strip().splitlines()[0])
    raise FileNotFoundError("; ".join(problems))


if __name__ == "__main__":
    with sync_playwright() as playwright:
        try:
            sys.stdout.write(f"Chromium {launched(playwright.chromium).version}\n")
        except FileNotFoundError as error:
            sys.exit(str(error))
