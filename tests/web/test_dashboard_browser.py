"""The live page in a real browser: what an operator sees, by mouse, by keyboard, in the dark, on a phone.

With TRIORESIL_PICTURES=1 the pictures of the docs are taken anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.web._browser import in_browser
from tests.web._dashboard import QUICK, TOKEN, fail_through, succeed
from tests.web._program import a_program
from trioresil import Bulkhead, CircuitBreaker, CircuitState, ConsecutiveFailures
from trioresil.dashboard import open_dashboard

PICTURES = Path(__file__).parents[2] / "docs" / "howto" / "pictures"
PATIENCE = 10_000 * QUICK  # ms

pytestmark = pytest.mark.slow


def card(page: Any, name: str) -> Any:
    return page.locator("article.card", has=page.locator("h3", has_text=name))


def wait_state(page: Any, name: str, word: str) -> None:
    card(page, name).locator(".state .word", has_text=word).wait_for(timeout=PATIENCE)


async def test_a_circuit_opens_and_the_page_shows_it_within_a_second() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), name="search")
    async with open_dashboard(port=0, title="shop") as dashboard:
        await breaker.call(succeed)

        def visit(page: Any) -> float:
            page.goto(dashboard.url)
            wait_state(page, "search", "closed")
            assert page.locator("#verdict .word").inner_text() == "1 policy is well"
            assert page.locator("h1").inner_text() == "shop"
            opened_at = trio.from_thread.run(break_it)
            wait_state(page, "search", "open")
            took: float = trio.from_thread.run_sync(trio.current_time) - opened_at
            page.locator("#lines", has_text="the circuit opened for 30 s: ConnectionError: down").wait_for()
            assert "to the next probe" in card(page, "search").inner_text()
            assert "1 policy in trouble" in page.locator("#verdict .word").inner_text()
            assert "search" in page.locator("#attention").inner_text()
            assert page.mishaps == []
            return took

        async def break_it() -> float:
            await fail_through(breaker)
            await fail_through(breaker)
            return trio.current_time()

        assert await in_browser(visit) < 10 * QUICK


async def test_a_circuit_is_isolated_released_and_reset_by_keyboard_alone() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="search")
    async with open_dashboard(port=0, allow_control=True) as dashboard:
        await fail_through(breaker)

        def state() -> CircuitState:
            return trio.from_thread.run_sync(lambda: breaker.state)

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            wait_state(page, "search", "open")
            for _ in range(40):  # from the start of the page to the button
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.dataset.act") == "isolate":
                    break
            page.keyboard.press("Enter")
            wait_state(page, "search", "isolated")
            assert state() is CircuitState.ISOLATED
            page.locator("[data-act=release]:focus").wait_for()  # the focus stays where it was
            page.keyboard.press("Enter")
            wait_state(page, "search", "open")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            wait_state(page, "search", "closed")
            assert state() is CircuitState.CLOSED
            assert page.mishaps == []

        await in_browser(visit)


async def test_a_read_only_page_has_no_buttons_that_act() -> None:
    breaker = CircuitBreaker(name="search")
    async with open_dashboard(port=0) as dashboard:
        dashboard.show(breaker)

        def visit(page: Any) -> int:
            page.goto(dashboard.url)
            wait_state(page, "search", "closed")
            found: int = page.locator("[data-act]").count()
            return found

        assert await in_browser(visit) == 0


async def test_what_a_program_says_is_text_and_never_markup() -> None:
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name=evil)

    async def fail_evilly() -> None:
        raise ConnectionError(evil)

    async with open_dashboard(port=0, title=f"{evil}!") as dashboard:
        with pytest.raises(ConnectionError):
            await breaker.call(fail_evilly)

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            page.locator("#lines", has_text="onerror=document.title").wait_for()
            assert page.locator("h3").inner_text() == evil
            assert page.locator("main img, main script").count() == 0
            assert page.title() != "owned"
            assert page.mishaps == []

        await in_browser(visit)


async def test_pause_stands_still_and_going_on_catches_up() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="search")
    async with open_dashboard(port=0) as dashboard:
        await breaker.call(succeed)

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            wait_state(page, "search", "closed")
            page.keyboard.press("p")
            assert page.locator("#pause").get_attribute("aria-pressed") == "true"
            trio.from_thread.run(fail_through, breaker)
            page.wait_for_timeout(1500)
            wait_state(page, "search", "closed")
            assert page.locator("#link .word").inner_text() == "paused"
            page.locator("#pause").click()
            wait_state(page, "search", "open")

        await in_browser(visit)


async def test_filters_leave_what_is_asked_for() -> None:
    broken, well = CircuitBreaker(trip=ConsecutiveFailures(1), name="search"), CircuitBreaker(name="mail")
    async with open_dashboard(port=0) as dashboard:
        await well.call(succeed)
        await fail_through(broken)

        def names(page: Any) -> list[str]:
            page.wait_for_timeout(500)
            found: list[str] = page.locator("article.card h3").all_inner_texts()
            return sorted(found)

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            wait_state(page, "search", "open")
            assert names(page) == ["mail", "search"]
            page.keyboard.press("/")
            page.keyboard.type("mai")
            assert names(page) == ["mail"]
            page.keyboard.press("Escape")
            assert names(page) == ["mail", "search"]
            page.locator("#trouble").click()
            assert names(page) == ["search"]
            assert page.locator("#lines li p").count() == 1
            page.locator("#log-filter").fill("nothing like it")
            assert page.locator("#lines").inner_text() == "No event matches."
            page.locator("#log-filter").fill("circuit opened")
            page.locator("#log-level").select_option("2")
            assert page.locator("#lines li p").count() == 1

        await in_browser(visit)


async def test_a_program_that_ends_is_noticed() -> None:
    leave = trio.Event()
    async with trio.open_nursery() as nursery:
        async with open_dashboard(port=0) as dashboard:

            def visit(page: Any) -> None:
                page.goto(dashboard.url)
                page.locator("#link .word", has_text="live").wait_for()
                trio.from_thread.run_sync(leave.set)
                page.locator("#link .word", has_text="no connection").wait_for()

            nursery.start_soon(in_browser, visit)
            await leave.wait()


async def test_a_person_types_the_token() -> None:
    bulkhead = Bulkhead(3, name="slots")
    async with open_dashboard(port=0, token=TOKEN) as dashboard:
        dashboard.show(bulkhead)

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            page.get_by_label("Token").fill("not this one, surely")
            page.keyboard.press("Enter")
            page.get_by_role("alert").get_by_text("This is not the token.").wait_for()
            page.get_by_label("Token").fill(TOKEN)
            page.keyboard.press("Enter")
            wait_state(page, "slots", "free")
            assert "token" not in page.url
            page.goto(f"{dashboard.url}?token={TOKEN}")
            wait_state(page, "slots", "free")

        await in_browser(visit)


# --- colours, sizes, screen readers ---------------------------------------------------------------------------------------

CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].filter((each) => each.nodeType === 3 && each.data.trim());
    if (!words.length || node.closest("noscript, .skip, .hidden") || !node.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.tagName}.${node.className}: ${words[0].data.trim().slice(0, 40)}`);
  }
  return [...new Set(poor)];
}"""

UNNAMED = """() => {
const all = document.querySelectorAll("button, input, select, [role=img], [role=meter], section, article, nav");
return [...all].filter((node) => {
  const by = node.getAttribute("aria-labelledby");
  return !(node.getAttribute("aria-label") || (by && document.getElementById(by)) || (node.labels && node.labels.length)
    || (node.tagName === "BUTTON" && node.textContent.trim()) || node.hidden);
}).map((node) => node.outerHTML.slice(0, 120)); }"""

MARKS = """() => [...document.querySelectorAll(".pill, #verdict, #attention a")].filter((node) =>
  !node.querySelector(".mark")?.textContent.trim() || node.textContent.trim().length < 3).map((node) => node.outerHTML)"""


async def test_contrast_names_marks_and_width_in_both_colours_and_on_a_phone() -> None:
    async with open_dashboard(port=0, allow_control=True, title="checkout-service", history=60) as dashboard:
        async with a_program():

            def visit(page: Any) -> None:
                page.goto(dashboard.url)
                wait_state(page, "dependencies", "degraded")
                page.locator("#attention a", has_text="search").first.wait_for()
                page.wait_for_timeout(1500)
                grounds = set()
                for colours in ("light", "dark"):
                    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
                    page.wait_for_timeout(200)
                    assert page.evaluate(CONTRASTS) == []
                    grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
                assert len(grounds) == 2
                assert page.evaluate("getComputedStyle(document.querySelector('.bar i')).transitionDuration") == "0s"
                assert page.evaluate(UNNAMED) == []
                assert page.evaluate(MARKS) == []
                for width in (1440, 820, 390, 320):
                    page.set_viewport_size({"width": width, "height": 800})
                    page.wait_for_timeout(200)
                    assert page.evaluate("document.documentElement.scrollWidth") <= width
                page.keyboard.press("t")
                page.keyboard.press("t")
                page.emulate_media(color_scheme="light")
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") in grounds
                assert page.evaluate("document.documentElement.dataset.theme") == "dark"
                assert page.evaluate(CONTRASTS) == []
                assert page.mishaps == []

            await in_browser(visit, viewport={"width": 1440, "height": 1000})


async def test_a_thousand_policies_are_scrolled_and_filtered_without_waiting() -> None:
    breakers = [CircuitBreaker(trip=ConsecutiveFailures(1), name=f"service-{number}") for number in range(1000)]
    async with open_dashboard(port=0) as dashboard:
        dashboard.show(*breakers)
        await fail_through(breakers[777])

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            page.locator("#kinds", has_text="1000").wait_for()
            assert page.locator("article.card").count() == 60
            page.locator("#attention a", has_text="service-777").click()
            wait_state(page, "service-777", "open")
            page.locator("#filter").fill("service-99")
            page.wait_for_timeout(1000)
            assert page.locator("article.card").count() == 11
            longest = page.evaluate(
                """() => new Promise((done) => { let last = performance.now(), most = 0, n = 0;
                const look = (now) => { most = Math.max(most, now - last); last = now;
                  ++n < 120 ? requestAnimationFrame(look) : done(most); };
                requestAnimationFrame(look); })"""
            )
            assert longest < 2_000  # ms
            assert page.mishaps == []

        await in_browser(visit)


@pytest.mark.skipif(
    "TRIORESIL_PICTURES" not in os.environ, reason="takes the pictures of the docs: TRIORESIL_PICTURES=1"
)
async def test_pictures_for_the_docs() -> None:
    PICTURES.mkdir(exist_ok=True)
    async with open_dashboard(port=0, allow_control=True, title="checkout-service", history=60) as dashboard:
        async with a_program():
            await trio.sleep(45)

            def visit(page: Any) -> None:
                page.goto(dashboard.url)
                wait_state(page, "dependencies", "degraded")
                page.wait_for_timeout(2000)
                page.screenshot(path=PICTURES / "live-page.png")
                page.emulate_media(color_scheme="dark")
                page.wait_for_timeout(500)
                page.screenshot(path=PICTURES / "live-page-dark.png")
                page.set_viewport_size({"width": 390, "height": 844})
                page.wait_for_timeout(500)
                page.screenshot(path=PICTURES / "live-page-phone.png")

            await in_browser(visit, viewport={"width": 1280, "height": 860})
