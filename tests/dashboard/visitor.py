"""Somebody with a browser, who has the page open."""

import re
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, expect

from devkit.stack import PROJECT, Stack

PATIENCE = 60_000  # milliseconds; the page asks every three seconds, and the machine may be busy
expect.set_options(timeout=PATIENCE)
AXE = PROJECT / "devkit/node_modules/axe-core/axe.min.js"


class Visitor:
    """Somebody who has the page open in a window of their own, and what the browser complained of."""

    def __init__(self, browser: Browser, stack: Stack, **window: Any) -> None:
        self.page: Page = browser.new_page(**window)
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._alerted)
        self._url = f"{stack.host.url}/api/dashboard"
        self._key = stack.host.keys["function"]

    def come(self, query: str = "") -> None:
        self.page.goto(self._url + query)
        expect(self.page.get_by_role("dialog", name="Function key")).to_be_visible()

    def give_key(self) -> None:
        self.page.get_by_label("Key", exact=True).fill(self._key)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#fresh")).to_have_text("live")

    def row(self, name: str) -> Locator:
        button = self.page.get_by_role("button", name=name, exact=True)
        return self.page.get_by_role("row").filter(has=button)

    def sees(self, name: str, status: str) -> None:
        expect(self.row(name).locator(".state")).to_have_text(re.compile(rf"^\S {status}$"))

    def opens(self, name: str) -> Locator:
        self.row(name).get_by_role("button").click()
        detail = self.page.locator("#detail")
        expect(detail.get_by_role("heading", level=2)).to_have_text(f"\u2068{name}\u2069")
        return detail

    def searches(self, prefix: str) -> None:
        self.page.get_by_label("Name begins with").fill(prefix)
        self.page.keyboard.press("Enter")

    def violations(self) -> list[Any]:
        """Return what axe-core finds, each with where."""
        run = f"async () => {{ {AXE.read_text()}; return (await axe.run()).violations }}"
        return [(each["id"], [node["html"] for node in each["nodes"]]) for each in self.page.evaluate(run)]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _alerted(self, dialog: Dialog) -> None:
        self.complaints.append(f"a script of somebody else says {dialog.message}")
        dialog.dismiss()
