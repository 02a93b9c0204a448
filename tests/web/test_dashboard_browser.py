"""The live page in a real browser: what an operator sees, by mouse, by keyboard, in the dark, on a phone.

With TRIORESIL_PICTURES=1 the pictures of the docs are taken anew.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.web._browser import in_browser, wait_until
from tests.web._dashboard import QUICK, TOKEN, fail_through, succeed
from tests.web._looks import CONTRASTS, check_looks
from tests.web._program import a_program
from trioresil import Bulkhead, CircuitBreaker, CircuitState, ConsecutiveFailures
from trioresil.dashboard import open_dashboard

PICTURES = Path(__file__).parents[2] / "docs" / "howto" / "pictures"
PATIENCE = 10_000 * QUICK  # ms

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_chromium")]


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
            opened_at = page.run(break_it)
            wait_state(page, "search", "open")
            took: float = page.run_sync(trio.current_time) - opened_at
            page.locator("#lines", has_text="the circuit opened for 30 s: ConnectionError: down").wait_for()
            assert "to the next probe" in card(page, "search").inner_text()
            assert "1 policy in trouble" in page.locator("#verdict .word").inner_text()
            assert "search" in page.locator("#attention").inner_text()
            return took

        async def break_it() -> float:
            await fail_through(breaker)
            await fail_through(breaker)
            return trio.current_time()

        assert await in_browser(visit) < 10 * QUICK
        with trio.fail_after(10 * QUICK):
            while dashboard._app.readers:  # noqa: ASYNC110  # nobody tells that the browser is gone
                await trio.sleep(0.02)


async def test_a_circuit_is_isolated_released_and_reset_by_keyboard_alone() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), name="search")
    async with open_dashboard(port=0, allow_control=True) as dashboard:
        await fail_through(breaker)

        def visit(page: Any) -> None:
            def state() -> CircuitState:
                found: CircuitState = page.run_sync(lambda: breaker.state)
                return found

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
            page.run(fail_through, breaker)
            page.wait_for_timeout(1_100)
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

        def wait_names(page: Any, *wanted: str) -> None:
            shown = "[...document.querySelectorAll('article.card h3')].map((each) => each.textContent).sort().join()"
            wait_until(page, f"{shown} === {','.join(wanted)!r}")

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            wait_state(page, "search", "open")
            wait_names(page, "mail", "search")
            page.keyboard.press("/")
            page.keyboard.type("MAI")
            wait_names(page, "mail")
            page.keyboard.press("Escape")
            wait_names(page, "mail", "search")
            page.locator("#filter").fill("nothing like it")
            wait_names(page)
            assert page.locator("#empty").inner_text() == "No policy matches."
            page.locator("#filter").fill("circ")  # the kind counts, too
            wait_names(page, "mail", "search")
            page.locator("#trouble").click()
            wait_names(page, "search")
            assert page.locator("#lines li p").count() == 1
            page.locator("#log-filter").fill("nothing like it")
            assert page.locator("#lines").inner_text() == "No event matches."
            page.locator("#log-filter").fill("circuit opened")
            page.locator("#log-level").select_option("2")
            assert page.locator("#lines li p").count() == 1

        await in_browser(visit)


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_program_that_ends_is_noticed_and_found_again_when_it_starts_again(token: str | None) -> None:
    first, second = [CircuitBreaker(name=f"of the first {n}") for n in "ab"], CircuitBreaker(name="of the second")
    end, again, done = trio.Event(), trio.Event(), trio.Event()
    url = ""

    def visit(page: Any) -> None:
        page.goto(url + (f"?token={TOKEN}" if token else ""))
        wait_state(page, "of the first b", "closed")
        page.run_sync(end.set)
        page.locator("#link .word", has_text="no connection").wait_for()
        page.run_sync(again.set)
        if token:  # its cookie was of the first program
            page.get_by_label("Token").fill(TOKEN)
            page.keyboard.press("Enter")
        wait_state(page, "of the second", "closed")
        page.locator("#link .word", has_text="live").wait_for()
        assert page.locator("h3").all_inner_texts() == ["of the second"]
        page.locator("[data-act=isolate]").click()
        wait_state(page, "of the second", "isolated")
        page.run_sync(done.set)

    async with trio.open_nursery() as nursery:
        async with open_dashboard(port=0, token=token) as dashboard:
            dashboard.show(*first)
            url = dashboard.url
            nursery.start_soon(partial(in_browser, visit, expected="ERR_|Failed to fetch|401"))
            await end.wait()
        await again.wait()
        async with open_dashboard(port=dashboard.address[1], token=token, allow_control=True) as dashboard:
            dashboard.show(second)
            await done.wait()


async def test_everything_is_reached_by_keyboard() -> None:
    breakers = [CircuitBreaker(trip=ConsecutiveFailures(1), name=f"service-{number:02}") for number in range(70)]
    async with open_dashboard(port=0, title="shop") as dashboard:
        dashboard.show(*breakers)
        await fail_through(breakers[66])

        def tab_to(page: Any, selector: str) -> None:
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("(wanted) => document.activeElement.matches(wanted)", selector):
                    outline = "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle; })()"
                    assert page.evaluate(outline) != "none", selector  # one sees where one is
                    return
            raise AssertionError(f"{selector} can't be reached")

        def visit(page: Any) -> None:
            page.goto(dashboard.url)
            page.locator("#attention a").wait_for()
            assert page.title() == "■ 1 · shop"
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.id") == "policies"
            tab_to(page, "[data-more]")
            page.keyboard.press("Enter")
            wait_until(page, "document.querySelectorAll('article.card').length === 70")
            page.keyboard.press("e")
            assert page.evaluate("document.activeElement.id") == "lines"
            page.keyboard.press("/")
            page.keyboard.type("pet")  # letters are letters there
            assert page.locator("#filter").input_value() == "pet"
            assert page.locator("#pause").get_attribute("aria-pressed") == "false"
            page.keyboard.press("Escape")
            assert page.locator("#filter").input_value() == ""
            for selector in ("#trouble", "#pause", "#theme", "#attention a"):
                tab_to(page, selector)
            page.wait_for_timeout(1_100)  # it is drawn anew meanwhile
            assert page.evaluate("document.activeElement.textContent").startswith("■service-66open")
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.querySelector('h3').textContent") == "service-66"
            for key, theme in (("t", "light"), ("t", "dark"), ("t", None)):
                page.keyboard.press(key)
                assert page.evaluate("document.documentElement.dataset.theme ?? null") == theme
            page.keyboard.press("t")
            page.reload()
            page.locator("#attention a").wait_for()
            assert page.evaluate("document.documentElement.dataset.theme") == "light"  # it was kept
            page.keyboard.press("Control+p")
            assert page.locator("#pause").get_attribute("aria-pressed") == "false"

        await in_browser(visit)


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
            page.context.clear_cookies()
            page.goto(f"{dashboard.url}?token={TOKEN}")
            wait_state(page, "slots", "free")
            assert "token" not in page.url

        await in_browser(visit, expected="40[13]")


# --- colours, sizes, screen readers ---------------------------------------------------------------------------------------


async def test_contrast_names_marks_and_width_in_both_colours_and_on_a_phone() -> None:
    async with open_dashboard(port=0, allow_control=True, title="checkout-service", history=60) as dashboard:
        async with a_program():

            def visit(page: Any) -> None:
                page.goto(dashboard.url)
                wait_state(page, "dependencies", "degraded")
                page.locator("#attention a", has_text="search").first.wait_for()
                page.wait_for_timeout(1_100)
                grounds = check_looks(page)
                assert page.evaluate("getComputedStyle(document.querySelector('.bar i')).transitionDuration") == "0s"
                page.keyboard.press("t")
                page.keyboard.press("t")
                page.emulate_media(color_scheme="light")
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") in grounds
                assert page.evaluate("document.documentElement.dataset.theme") == "dark"
                assert page.evaluate(CONTRASTS) == []

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
            wait_until(page, "document.querySelectorAll('article.card').length === 11")
            longest = page.evaluate(
                """() => new Promise((done) => { let last = performance.now(), most = 0, n = 0;
                const look = (now) => { most = Math.max(most, now - last); last = now;
                  ++n < 60 ? requestAnimationFrame(look) : done(most); };
                requestAnimationFrame(look); })"""
            )
            assert longest < 2_000  # ms

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
