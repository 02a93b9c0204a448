"""Fallback: what is tried, in which order, and what comes out if nothing will do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import After, Script, refuse
from trioresil.testing import Recorder


class Passing(Exception):
    """Answered in these tests."""


class Lasting(Exception):
    """Not answered."""


async def by_call(fallback: trioresil.Fallback[Any], fn: Callable[[], Awaitable[Any]]) -> Any:
    return await fallback.call(fn)


async def by_decorator(fallback: trioresil.Fallback[Any], fn: Callable[[], Awaitable[Any]]) -> Any:
    return await fallback(fn)()


async def by_bind(fallback: trioresil.Fallback[Any], fn: Callable[[], Awaitable[Any]]) -> Any:
    return await fallback.bind(fn)()


Form = Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]
FORMS: dict[str, Form] = {"call": by_call, "decorator": by_decorator, "bind": by_bind}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


ANSWERED = (Passing, trioresil.RejectedError)


def fallback_to(*scripts: Script, **configuration: Any) -> trioresil.Fallback[Any]:
    """Return a Fallback whose alternatives are scripts."""
    return trioresil.Fallback(
        *(script.run for script in scripts), **{"on": ANSWERED, "name": "degrade", **configuration}
    )


async def error_of(form: Form, fallback: Any, first: Script) -> Exception:
    try:
        result = await form(fallback, first.run)
    except Exception as exc:
        return exc
    raise AssertionError(f"it returned {result!r}")


# --- order


async def test_success_asks_nobody_else(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    other = Script("other")
    assert await form(fallback_to(other, default=0), Script("value").run) == "value"
    assert other.began_at == []


async def test_alternatives_are_tried_in_order_until_one_answers(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    scripts = [
        Script(After(1, Passing())),
        Script(After(2, Passing())),
        Script(refuse()),
        Script(After(4, "value")),
        Script("never"),
    ]
    first, *others = scripts
    assert await form(fallback_to(*others, default=0), first.run) == "value"
    assert [script.began_at for script in scripts] == [[0], [1], [3], [3], []]
    assert trio.current_time() == 7


async def test_default_comes_last(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    other = Script(Passing())
    assert await form(fallback_to(other, default="default"), Script(Passing()).run) == "default"
    assert other.began_at == [0]


@pytest.mark.parametrize("default", [None, False, 0, ()])
async def test_any_value_is_a_default(default: Any, form: Form, autojump_clock: trio.testing.MockClock) -> None:
    assert await form(fallback_to(default=default), Script(Passing()).run) is default


async def test_arguments_reach_the_alternatives(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[Any] = []

    async def primary(first: int, *, second: int = 0) -> str:
        seen.append(("primary", first, second))
        raise Passing

    async def secondary(first: int, *, second: int = 0) -> str:
        seen.append(("secondary", first, second))
        return "value"

    fallback = trioresil.Fallback(secondary, on=Passing)
    assert await fallback.call(primary, 1) == "value"
    assert await fallback(primary)(1, second=2) == "value"
    assert seen == [("primary", 1, 0), ("secondary", 1, 0), ("primary", 1, 2), ("secondary", 1, 2)]


async def test_each_call_begins_with_the_wrapped_function(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    first, other = Script(Passing(), "value"), Script("other")
    fallback = fallback_to(other)
    assert [await form(fallback, first.run), await form(fallback, first.run)] == ["other", "value"]


async def test_one_object_serves_many_tasks_at_once(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    results: list[Any] = []
    fallback = fallback_to(Script(After(2, "other")))

    async def client(first: Script) -> None:
        results.append(await form(fallback, first.run))

    async with trio.open_nursery() as nursery:
        for step in (Passing(), After(1, "value"), After(1, Passing())):
            nursery.start_soon(client, Script(step))
    assert results == ["value", "other", "other"]
    assert trio.current_time() == 3


# --- what is answered


@pytest.mark.parametrize("on", [Passing, (KeyError, Passing), lambda error: isinstance(error, Passing)])
async def test_unmatched_error_of_the_call_comes_out_untouched(
    on: Any, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error, other = Lasting(), Script("other")
    assert await error_of(form, fallback_to(other, on=on, default=0), Script(error)) is error
    assert not hasattr(error, "__notes__")
    assert error.__context__ is error.__cause__ is None
    assert other.began_at == []
    assert await form(fallback_to(other, on=on), Script(Passing()).run) == "other"


async def test_unmatched_error_of_an_alternative_comes_out_at_once(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error, other = Lasting("second"), Script("other")
    fallback = fallback_to(Script(error), other, default=0)
    assert await error_of(form, fallback, Script(Passing("first"))) is error
    assert other.began_at == []
    assert error.__notes__ == ["trioresil: fallback 'degrade': the call itself raised Passing('first')"]


class Unshowable(Passing):
    """An error, or a result, with a bug in its repr."""

    def __repr__(self) -> str:
        raise ValueError("this one can't be shown")


async def test_what_has_no_repr_is_noted_by_its_type(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Lasting()
    fallback = fallback_to(Script(Unshowable()), Script(error), on_result=lambda result: True)
    poor = [Unshowable()]  # in a list, or the script would raise it
    assert await error_of(form, fallback, Script(poor)) is error
    assert error.__notes__ == [
        "trioresil: fallback 'degrade': the call itself returned <list>, which is no answer",
        f"trioresil: fallback 'degrade': {fallback.statistics().alternatives[0]} raised <Unshowable>",
    ]


async def test_error_without_a_repr_leaves_a_cancellation_alone(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(0.5) as scope:
        await form(fallback_to(Script(After(1, "value"))), Script(Unshowable()).run)
    assert scope.cancelled_caught


async def test_large_result_is_cut_short_in_a_note(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Lasting()
    fallback = fallback_to(Script(error), on_result=lambda result: True)
    assert await error_of(form, fallback, Script("x" * 10_000)) is error
    assert error.__notes__ == [
        f"trioresil: fallback 'degrade': the call itself returned '{'x' * 198}…, which is no answer"
    ]


async def test_unmatched_error_outweighs_an_earlier_failing_result(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Lasting()
    fallback = fallback_to(Script(error), on_result=lambda result: result is None)
    assert await error_of(form, fallback, Script(None)) is error
    assert error.__notes__ == ["trioresil: fallback 'degrade': the call itself returned None, which is no answer"]


async def test_predicate_is_asked_once_about_each_error(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    errors = [Passing(1), Passing(2), Passing(3)]
    asked: list[Exception] = []
    first, *others = (Script(error) for error in errors)
    fallback = fallback_to(*others, on=lambda error: asked.append(error) or True)
    await error_of(form, fallback, first)
    assert asked == errors


async def test_group_is_answered_if_every_leaf_is(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    assert await form(fallback_to(default=0), Script(ExceptionGroup("", [Passing(), Passing()])).run) == 0
    mixed = ExceptionGroup("", [Passing(), Lasting()])
    assert await error_of(form, fallback_to(default=0), Script(mixed)) is mixed


async def test_cached_none_is_passed_over_with_on_result(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    cache, secondary = Script(None), Script("value")
    fallback = fallback_to(cache, secondary, on_result=lambda result: result is None)
    assert await form(fallback, Script(Passing()).run) == "value"
    assert await form(fallback, Script(None).run) == "value"
    assert await form(fallback_to(Script(None), secondary), Script(Passing()).run) is None  # without it, it is one


async def test_default_is_not_judged_by_on_result(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    assert await form(fallback_to(default=None, on_result=lambda result: result is None), Script(None).run) is None


@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_passes(
    passing: type[BaseException], form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    raised = passing()
    for first, other in ((Script(raised), Script("value")), (Script(Passing()), Script(raised))):
        with pytest.raises(passing) as caught:
            await form(fallback_to(other, default=0, on=lambda error: True), first.run)
        assert caught.value is raised


@pytest.mark.parametrize("nursery", [False, True])
async def test_cancellation_never_falls_back(nursery: bool, form: Form, autojump_clock: trio.testing.MockClock) -> None:
    other = Script("other")

    async def work() -> None:
        if not nursery:
            await trio.sleep_forever()
        async with trio.open_nursery() as inside:
            inside.start_soon(trio.sleep_forever)
            inside.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        await form(fallback_to(other, default=0, on=lambda error: True), work)
    assert scope.cancelled_caught
    assert other.began_at == []


async def test_cancelled_alternative_goes_no_further(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    last = Script("last")
    with trio.move_on_after(1) as scope:
        await form(fallback_to(Script(After(9, "other")), last, default=0), Script(Passing()).run)
    assert scope.cancelled_caught
    assert last.began_at == []
    assert trio.current_time() == 1


async def test_result_that_cant_be_awaited_is_no_failure(autojump_clock: trio.testing.MockClock) -> None:
    fallback = trioresil.Fallback(on=Exception, default=0)
    with pytest.raises(TypeError, match="must return something to await"):
        await fallback.call(lambda: 5)  # type: ignore[arg-type,return-value]
    plain = trioresil.Fallback(lambda: 5, Script("value").run, on=Exception, default=0)
    with pytest.raises(TypeError, match="must return something to await"):
        await plain.call(Script(Passing()).run)


# --- what comes out if nothing will do

POOR = "poor"


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        (["fails", "fails", "fails"], 0),
        (["refused", "fails", "fails"], 1),
        (["refused", "refused", "fails"], 2),
        (["refused", "refused", "refused"], 0),
        (["fails", "refused", "fails"], 0),
        (["poor", "fails", "fails"], 0),
        (["refused", "poor", "fails"], 1),
        (["fails", "poor", "poor"], 0),
        (["poor", "poor", "poor"], 0),
        (["refused", "refused for good"], 1),
        (["fails", "refused for good"], 0),
        (["refused", "fails", "refused for good"], 1),
        (["refused", "refused", "lasting"], 2),
        (["fails", "poor", "lasting"], 2),
    ],
)
async def test_first_that_started_comes_out(
    steps: list[str], chosen: int, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    made: list[Any] = []
    scripts = []
    for number, step in enumerate(steps):
        product: Any = {"fails": Passing(number), "poor": [POOR, number], "lasting": Lasting(number)}.get(step)
        if step.startswith("refused"):
            refused = refuse(name=f"{step} {number}")
            product, action = refused.error, refused
        else:
            action = product
        made.append(product)
        scripts.append(Script(action))
    first, *others = scripts
    on = lambda error: isinstance(error, ANSWERED) and "for good" not in getattr(error, "policy", "")  # noqa: E731
    fallback = fallback_to(*others, on=on, on_result=lambda result: result[0] == POOR)
    if isinstance(made[chosen], list):
        assert await form(fallback, first.run) is made[chosen]
        assert not any(hasattr(product, "__notes__") for product in made)
        return
    error = await error_of(form, fallback, first)
    assert error is made[chosen]
    names = ["the call itself", *fallback.statistics().alternatives]
    assert error.__notes__ == [
        f"trioresil: fallback 'degrade': {names[number]} "
        + (f"returned {product!r}, which is no answer" if isinstance(product, list) else f"raised {product!r}")
        for number, product in enumerate(made)
        if number != chosen
    ]
    assert getattr(error, "started", None) is (False if all(step.startswith("refused") for step in steps) else None)


KINDS = ("value", "poor", "fails", "lasting", "refused", "refused for good")


def predict(kinds: tuple[str, ...], default: bool) -> tuple[int, int]:
    """Return how many are tried, and which one's outcome comes out: its index, -1 for the default. From the rules alone."""
    for tried, kind in enumerate(kinds, 1):
        last = tried - 1
        started = [index for index in range(tried) if not kinds[index].startswith("refused")]
        if kind in ("value", "lasting"):
            return tried, last
        if kind == "refused for good":
            return tried, started[0] if started else last
    return len(kinds), -1 if default else started[0] if started else 0


async def test_every_short_course_goes_as_the_rules_say(autojump_clock: trio.testing.MockClock) -> None:
    async def answers(kinds: tuple[str, ...], default: bool) -> tuple[int, int]:
        made: list[Any] = []
        scripts = []
        for kind in kinds:
            refused = refuse(name=kind)
            products = {"value": [kind], "poor": [kind], "fails": Passing(), "lasting": Lasting()}
            made.append(products.get(kind, refused.error))
            scripts.append(Script(products.get(kind, refused)))
        first, *others = scripts
        fallback = fallback_to(
            *others,
            on=lambda error: isinstance(error, Passing) or getattr(error, "policy", "") == "refused",
            on_result=lambda result: result == ["poor"],
            **({"default": "default"} if default or not others else {}),
        )
        try:
            outcome = await fallback.call(first.run)
        except Exception as exc:
            outcome = exc
        chosen = -1 if outcome == "default" else next(i for i, each in enumerate(made) if each is outcome)
        return sum(len(script.began_at) for script in scripts), chosen

    for length in (1, 2, 3, 4):
        for kinds in product(KINDS, repeat=length):
            for default in (True, False) if length > 1 else (True,):
                assert await answers(kinds, default) == predict(kinds, default), (kinds, default)


async def test_rejection_of_everything_is_safe_to_try_elsewhere(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = await error_of(form, fallback_to(Script(refuse())), Script(refuse()))
    assert isinstance(error, trioresil.RejectedError)
    assert error.started is False


async def test_foreign_rejection_out_of_a_function_has_started(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    foreign = trioresil.RejectedError("elsewhere")
    assert await error_of(form, fallback_to(Script(foreign)), Script(refuse())) is foreign
    assert foreign.started is True


async def test_lone_function_without_alternatives_that_is_a_default_adds_no_note(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    await form(fallback_to(default=0), Script(error).run)
    assert not hasattr(error, "__notes__")


async def test_error_keeps_its_cause_and_its_context(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    cause, context = KeyError(), LookupError()

    async def fails() -> None:
        try:
            raise context
        except LookupError:
            raise Passing from cause

    for others in ([Script(Passing())], [Script(refuse(name="good"))]):
        try:
            raise RuntimeError("the caller is just handling this")
        except RuntimeError:
            with pytest.raises(Passing) as caught:
                await form(fallback_to(*others, on=Passing), fails)
        assert caught.value.__cause__ is cause
        assert caught.value.__context__ is context


async def test_outcomes_dont_chain_onto_each_other(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    for steps in ([Passing(), Passing()], [refuse(), Passing()], [Passing(), Lasting()], [Passing(), refuse()]):
        first, *others = (Script(step) for step in steps)
        error = await error_of(form, fallback_to(*others, on=Passing), first)
        assert error.__context__ is error.__cause__ is None


# --- events


async def test_events_tell_each_turn(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def cache() -> str:
        return "poor"

    async def mirror() -> str:
        raise mirror_error

    error, mirror_error = Passing(1), Passing(2)
    fallback = trioresil.Fallback(cache, mirror, on=Passing, default=0, on_result=lambda result: result == "poor")
    recorder = Recorder()
    with trioresil.instrument(recorder):
        assert await form(fallback, Script("value").run) == "value"
        assert await form(fallback, Script(error).run) == 0
    assert recorder.events == [
        trioresil.PolicySeen(policy=fallback),
        trioresil.FellBack(policy=fallback, alternative=cache.__qualname__, error=error, result=None),
        trioresil.FellBack(policy=fallback, alternative=mirror.__qualname__, error=None, result="poor"),
        trioresil.FellBack(policy=fallback, alternative="default", error=mirror_error, result=None),
    ]


async def test_event_carries_the_result_that_was_no_answer(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    fallback = fallback_to(Script("bad"), default=0, on_result=lambda result: result in ("poor", "bad"))
    with trioresil.instrument(recorder):
        await form(fallback, Script("poor").run)
    assert [(event.error, event.result) for event in recorder.of(trioresil.FellBack)] == [(None, "poor"), (None, "bad")]


# --- what it leaves behind

ENDINGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an answer": ({}, ["fail", "fail", "succeed"]),
    "a default": ({"default": 0}, ["fail", "refuse", "fail"]),
    "the first error": ({}, ["fail", "fail", "fail"]),
    "the last error": ({}, ["refuse", "refuse", "fail"]),
    "rejections only": ({}, ["refuse", "refuse", "refuse"]),
    "a result": ({"on_result": lambda result: True}, ["refuse", "succeed", "fail"]),
    "an unmatched error": ({"on": trioresil.RejectedError}, ["refuse", "fail", "succeed"]),
    "an unmatched first error": ({"on": KeyError}, ["fail", "fail", "fail"]),
    "a cancellation": ({}, ["fail", "fail", "sleep"]),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_errors_are_freed_without_the_collector(
    ending: str, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    changes, steps = ENDINGS[ending]
    raised: list[weakref.ref[BaseException]] = []

    def noted(error: Exception) -> Exception:
        raised.append(weakref.ref(error))
        return error

    def taking(step: str) -> Any:
        class Gate(trioresil.abc.Policy):
            name = "gate"

            def link(self, inner: Any) -> Any:
                async def link(args: Any, kwargs: Any) -> Any:
                    if step == "refuse":
                        raise noted(trioresil.RejectedError("gate"))
                    return await inner(args, kwargs)

                return link

            def statistics(self) -> None:
                return None

        async def work() -> None:
            if step == "fail":
                raise noted(Passing())
            if step == "sleep":
                await trio.sleep_forever()

        return Gate()(work)

    first, *others = (taking(step) for step in steps)
    fallback = trioresil.Fallback(*others, **{"on": ANSWERED, **changes})
    gc.collect()
    gc.disable()
    try:
        with trio.move_on_after(1), contextlib.suppress(Exception):
            await form(fallback, first)
        await trio.lowlevel.checkpoint()  # until then Trio itself holds the last thing it raised
        assert raised
        assert [ref() for ref in raised] == [None] * len(raised)
    finally:
        gc.enable()


# --- arguments, and what it says of itself


async def values() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("alternatives", "arguments", "message"),
    [
        ((), {}, "missing 1 required keyword-only argument: 'on'"),
        ((), {"on": OSError}, "a Fallback needs an alternative or a default to fall back to"),
        ((by_call, by_call), {"on": OSError}, "alternatives must be different functions, but <function by_call .*> is"),
        ((by_call, by_bind, by_call), {"on": OSError}, "alternatives must be different functions"),
        ((values,), {"on": OSError}, "values is a generator function"),
        ((5,), {"on": OSError}, "an async function is wanted, not 5"),
        ((by_call,), {"on": BaseException}, "on must be .* not BaseException"),
        ((by_call,), {"on": ()}, "on must be .* not an empty tuple"),
        ((by_call,), {"on": OSError, "on_result": 5}, "on_result must be a function"),
        ((by_call,), {"on": OSError, "on_result": by_call}, "on_result must be a plain function"),
        ((by_call,), {"on": OSError, "name": ""}, "name must be a string with at least one"),
    ],
)
def test_wrong_argument_is_refused_by_name(alternatives: Any, arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trioresil.Fallback(*alternatives, **arguments)


def test_generator_function_cant_be_decorated() -> None:
    with pytest.raises(TypeError, match="values is a generator function"):
        trioresil.Fallback(on=OSError, default=0)(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [by_call, by_decorator])
def test_asyncio_is_told_what_to_do(form: Form) -> None:
    fallback = trioresil.Fallback(on=Exception, default=0)
    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio: start the program with trio.run\(\.\.\.\)"):
        asyncio.run(form(fallback, Script("value").run))  # type: ignore[arg-type]


def test_what_it_says_of_itself() -> None:
    fallback = trioresil.Fallback(by_call, by_bind, on=OSError, default=None, name="degrade")
    assert repr(fallback) == "<trioresil.Fallback 'degrade' to by_call, by_bind, default>"
    assert fallback.statistics() == trioresil.FallbackStatistics(
        name="degrade", alternatives=("by_call", "by_bind"), has_default=True
    )
    assert fallback.has_default
    assert not fallback.stateful
    bare = trioresil.Fallback(by_call, on=OSError)
    assert repr(bare) == "<trioresil.Fallback 'fallback' to by_call>"
    assert not bare.has_default
    assert not bare.statistics().has_default


def test_replace_gives_a_changed_copy() -> None:
    fallback = trioresil.Fallback(by_call, on=OSError, on_result=bool, name="degrade")
    changed = fallback.replace(default=0)
    assert (fallback.has_default, changed.has_default, changed.default) == (False, True, 0)
    assert (changed.on, changed.on_result, changed.name) == (OSError, bool, "degrade")
    assert changed.alternatives == (by_call,)
    assert fallback.replace(alternatives=(by_bind, by_call)).alternatives == (by_bind, by_call)
    assert changed.replace(name="other").default == 0
    with pytest.raises(TypeError, match="'defualt'"):
        fallback.replace(defualt=0)


def test_attribute_cant_be_set() -> None:
    fallback = trioresil.Fallback(by_call, on=OSError, name="degrade")
    for name in ("default", "on", "alternatives", "defualt"):
        with pytest.raises(AttributeError, match=rf"'degrade' .*can't be changed: \.replace\({name}=\.\.\.\) returns"):
            setattr(fallback, name, 5)


# --- checkpoints


async def test_call_checks_for_cancellation_and_lets_nobody_run(
    form: Form, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("work")
        if len(ran) == 1:
            raise Passing

    async def alternative() -> None:
        ran.append("alternative")

    async def other() -> None:
        ran.append("other")

    fallback = trioresil.Fallback(alternative, on=Passing)
    nursery.start_soon(other)
    await form(fallback, work)
    assert ran == ["work", "alternative"]
    if form is by_bind:
        return  # which leaves the check to what stands around it
    with trio.CancelScope() as scope:
        scope.cancel()
        await form(fallback, work)
    assert scope.cancelled_caught
    assert ran.count("work") == 1
