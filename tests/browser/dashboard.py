"""The dashboard as a person uses it: tests say what is done, this module knows where it is on the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Locator, Page, Response

AXE = Axe().axe_script
# The browser reports every refusal of the server as an error; the tests look at refusals themselves.
_EXPECTED = re.compile(r"the server responded with a status of 4\d\d|Response Status Error Code 4\d\d")


class Dashboard:
    """One page of one person's browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _EXPECTED.search(message.text):
            self.troubles.append(f"{message.type}: {message.text}")

    # Going places

    def open(self, address: str = "/") -> Response:
        """Go to a page."""
        response = self.page.goto(address)
        assert response is not None
        return response

    def sees(self, text: str | re.Pattern[str], *, within_seconds: float = 8) -> None:
        """Wait until a text can be read."""
        self.page.get_by_text(text).first.wait_for(timeout=within_seconds * 1_000)

    def button(self, name: str) -> Locator:
        """Return a button by the word on it."""
        return self.page.get_by_role("button", name=name, exact=True)

    def cannot_press(self, name: str) -> None:
        """Wait until a button is there and off."""
        from playwright.sync_api import expect

        expect(self.button(name)).to_be_disabled()

    # Deciding

    @property
    def decision(self) -> Locator:
        """Return the part with forms, receipts and story."""
        return self.page.locator("#decision")

    @property
    def queue(self) -> Locator:
        """Return the items of the queue."""
        return self.page.locator("#queue .queue-item")

    def approve(self, note: str = "") -> None:
        """Approve what is open."""
        if note:
            self.page.get_by_label("Note").fill(note)
        self.button("Approve").click()

    def record_compensation(self, result: str, note: str = "") -> None:
        """Record a compensation of what is open."""
        self.page.get_by_label("Result of the compensation").fill(result)
        if note:
            self.page.get_by_label("Note").fill(note)
        self.button("Record compensation").click()

    def acknowledge(self, typed_name: str) -> None:
        """Type the name of the workflow and acknowledge the resume in prod."""
        self.page.get_by_label("Workflow name").fill(typed_name)
        self.button("Acknowledge prod resume").click()

    def reject(self, reason: str) -> None:
        """Unfold the rejection, give the reason, and reject."""
        self.page.get_by_text("Reject this run…").click()
        self.page.get_by_label("Reason").fill(reason)
        self.button("Reject").click()

    # Judging the page

    def accessibility_problems(self) -> list[str]:
        """Return what axe finds wrong with the page, a line each."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE)
        found = self.page.evaluate(
            "axe.run({resultTypes: ['violations']}).then(results => results.violations)"
        )
        return [
            f"{problem['id']}: {node['html'][:160]} {_first_message(node)}"
            for problem in found
            for node in problem["nodes"]
        ]

    def problems_in_light_and_dark(self) -> list[str]:
        """Return what axe finds in both colour schemes, and what does not fit."""
        found = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found += [f"{scheme}: {problem}" for problem in self.accessibility_problems()]
            if self.overflow():
                found.append(f"{scheme}: {self.overflow()} px too wide")
        return found

    def problems_on_all_screens(self) -> list[str]:
        """Return what axe finds in light and dark, on a desk and on a phone, and what does not fit there."""
        found = []
        for width in (1280, 390):
            self.page.set_viewport_size({"width": width, "height": 844})
            found += [f"{width} px, {problem}" for problem in self.problems_in_light_and_dark()]
        return found

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        wider: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return max(0, wider)


def _first_message(node: dict[str, Any]) -> str:
    return next((check["message"] for check in node["any"] + node["all"] + node["none"]), "")


class Traffic:
    """Count what a page loads from now on; bytes as they go over the wire."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.bytes = 0
        page.on("requestfinished", self._count)

    def _count(self, request: Any) -> None:
        self.requests.append(request.url)
        sizes = request.sizes()
        self.bytes += sizes["responseBodySize"] + sizes["responseHeadersSize"]
