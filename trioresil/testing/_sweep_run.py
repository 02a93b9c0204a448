"""One run of a cancellation sweep: cancels its victim at one moment and watches what becomes of everything else.

The law of this file:

1. A single thread sees a cancellation only between two task steps. So the moments of a deterministic run are
   complete and countable: before and after each step of any task while the victim's scope is open, and the entry of
   that scope. *Before* a step is the race in which a task has been granted something and has not run yet; *after* it
   the victim may just have blocked, so that its abort function is what runs.
2. Time is virtual, so nothing is waited for. All tasks blocked and no deadline ahead is a hang, known at once. A task
   that keeps running is known by the number of steps, since a livelock needn't move the clock.
3. A failing run is ended like any other, by a cancellation. If tasks refuse that, the run is broken off.

Rejected: an outer deadline to find hangs, since code that reads its effective deadline would act on it; and stopping a
run by an error raised in a hook, since Trio only logs that and drops the instrument.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import math
import random
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import attrs
import trio
import trio.testing

from trioresil import _checks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import ModuleType, TracebackType

Scenario: TypeAlias = "Callable[[Sweep], Awaitable[object]]"

_GRACE = 100  # steps in which the tasks of a failed run may clean up


@attrs.frozen(kw_only=True)
class Moment:
    """A point between two task steps of one deterministic run; its repr is the argument that replays it."""

    seed: int
    """The seed of Trio's scheduler, >= 0."""
    when: Literal["never", "entry", "before", "after"]
    """On which side of the step; "entry": as the victim's scope opens; "never": a rehearsal, nothing is cancelled."""
    step: int = 0
    """Which task step, counted from 1 over all tasks of the run; 0 with "never"."""
    task: str = attrs.field(default="", eq=False)
    """The name of the task whose step it is, for the reader; it takes no part in comparisons."""

    def __str__(self) -> str:
        where = {"never": "without a cancellation", "entry": f"on entry, in step {self.step}"}
        return f"seed {self.seed}, {where.get(self.when, f'{self.when} step {self.step}')}" + (
            f" of {self.task}" if self.task else ""
        )


class Sweep:
    """What a scenario is given for one run: the victim, the invariants and seeded chance.

    Attributes:
      moment (Moment): where this run cancels its victim; its ``when`` is "never" in a rehearsal.
      rng (random.Random): the only chance a scenario may use; begins alike in all runs of a seed.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.moment: Moment = run.moment
        self.rng: random.Random = random.Random(run.moment.seed)

    def victim(self, *, may_swallow: bool = False) -> _Victim:
        """Open the scope that is cancelled, at every moment of its life; ``with`` gives the ``trio.CancelScope``.

        It is opened once in a scenario, in any task. End the block right after what is tested: a checkpoint behind it
        would raise the cancellation that was swallowed before.

        Args:
          may_swallow (bool): True if what is tested may return normally although a cancellation was raised in it, say
            because it prefers a result that it already holds. Default: False, that is a failure.
        """
        return _Victim(self._run, _checks.flag("may_swallow", may_swallow))

    @property
    def victim_cancelled(self) -> bool:
        """True once the victim's scope has caught its cancellation; False if the victim ended before that."""
        return self._run.victim_scope.cancelled_caught

    def when_quiet(self, check: Callable[[], object]) -> None:
        """Assert an invariant each time that every task is blocked.

        This is where a lost wake-up shows: a free permit and a queue at once are legal while somebody still has to run,
        and never when nobody has.

        Args:
          check (() -> object): fails by raising, or by returning False. Synchronous; a method of the object under test
            will do. Called from Trio's loop, so ``trio.current_time()`` works and ``current_task()`` doesn't.
        """
        if check is None:
            raise TypeError("check must be a plain function () -> object, not None")
        self._run.invariants.append(_checks.function("check", check, signature="() -> object"))


class _Victim:
    """The block that is cancelled: a cancel scope that reports when it is open."""

    def __init__(self, run: Run, may_swallow: bool) -> None:
        self._run = run
        self._may_swallow = may_swallow

    def __enter__(self) -> trio.CancelScope:
        if self._run.victim_task is not None:
            raise RuntimeError("sweep.victim() was opened twice in one scenario: a run cancels one thing, once")
        self._run.victim_scope.__enter__()
        self._run.victim_entered()
        return self._run.victim_scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._run.victim_open = False
        caught = self._run.victim_scope.__exit__(kind, error, traceback)
        if error is None and self._run.delivered and not self._may_swallow:
            self._run.fail("the victim swallowed its cancellation: Cancelled was raised in it, and it ended normally")
        return caught


class Run(trio.abc.Instrument):
    """One run of a scenario: counts steps, cancels the victim at its moment, and watches what becomes of the rest."""

    def __init__(self, moment: Moment, max_steps: int) -> None:
        self.moment = moment
        self.error: BaseException | None = None
        self.trace: list[int] = []  # which task took each step, by order of birth: names and ids repeat or vary
        self.names: list[str] = []
        self.living: dict[trio.lowlevel.Task, int] = {}
        self.moments: list[Moment] = []
        self.invariants: list[Callable[[], object]] = []
        self.victim_scope: trio.CancelScope = trio.CancelScope()
        self.victim_task: trio.lowlevel.Task | None = None
        self.victim_open: bool = False
        self.fired: bool = False
        self.delivered: bool = False
        self._reason = f"cancellation sweep: {moment}"
        self._scope = trio.CancelScope()
        self._clock = trio.testing.MockClock(autojump_threshold=0)
        self._max_steps = self._last_step = max_steps
        self._tasks_of_trio: set[trio.lowlevel.Task] = set()
        self._idle_passes = 0
        self._in_scenario = False
        self._broken_off = False

    def execute(self, scenario: Scenario) -> None:
        """Run the scenario; afterwards `error` says how it failed, if it did."""
        try:
            trio.run(self._main, scenario, clock=self._clock, instruments=[self])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pytest.fail() raises one, and so does a Cancelled that lost its scope
            if isinstance(error, BaseExceptionGroup) and error.subgroup((KeyboardInterrupt, SystemExit)):
                raise
            if self.error is None:
                self.error = _bare(error)
        for task in self.living:  # none, unless this run was broken off
            _make_immortal(task.coro)

    async def _main(self, scenario: Scenario) -> None:
        main = trio.lowlevel.current_task()
        self.names[self.living[main]] = _name(scenario)
        at_start = set(self.living)
        self._tasks_of_trio = at_start - {main}
        self._in_scenario = True
        try:
            with self._scope:
                await scenario(Sweep(self))
        finally:
            self._in_scenario = False
        left = [task for task in self.living if task not in at_start]
        if left:
            self.fail(f"tasks outlived the scenario: {self._whereabouts(left)}")

    def fail(self, problem: str | BaseException) -> None:
        """Note the first problem and end the run."""
        if self.error is None:
            self.error = AssertionError(problem) if isinstance(problem, str) else problem
            self._last_step = len(self.trace) + _GRACE
            self._scope.cancel(reason="cancellation sweep: this run has failed")

    def victim_entered(self) -> None:
        self.victim_task = trio.lowlevel.current_task()
        self.victim_open = True
        self._at("entry")

    def _at(self, when: Literal["entry", "before", "after"]) -> None:
        if not self.victim_open:
            return
        step = len(self.trace)
        if self.moment.when == "never":
            task = self.names[self.trace[-1]]
            self.moments.append(Moment(seed=self.moment.seed, when=when, step=step, task=task))
        elif self.moment.when == when and self.moment.step == step:
            self.fired = True
            self.victim_scope.cancel(reason=self._reason)

    # The hooks below are called by Trio's loop, which drops an instrument that raises: they must not.

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.living[task] = len(self.names)
        self.names.append(task.name)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.living.pop(task, None)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._idle_passes = 0
        self.trace.append(self.living[task])
        self._at("before")
        if self.fired and task is self.victim_task and self.victim_open:
            cancelled = _cancellation_about_to_be_raised(task)
            # The reason tells ours from that of an inner scope, whose own time-out may rightly end inside the block.
            self.delivered = self.delivered or (cancelled is not None and cancelled.reason == self._reason)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._at("after")
        if len(self.trace) < self._last_step:
            return
        if self.error is not None:
            self._break_off()
            return
        busiest = Counter(self.trace[-_GRACE:]).most_common(3)
        self.fail(
            f"livelock: {self._max_steps} steps and still running at virtual time {trio.current_time():g} s; "
            f"busiest in the last {min(_GRACE, self._max_steps)} steps: "
            + ", ".join(f"{self.names[number]} ({steps})" for number, steps in busiest)
        )

    def after_io_wait(self, timeout: float) -> None:
        # Here and not before the wait, when I/O might still make tasks runnable. A deadline that is due has still to
        # wake its sleeper: until then time has moved and its consequences have not, which breaks honest invariants.
        if self._broken_off:
            return
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable or now.run_sync_soon_queue_size or now.seconds_to_next_deadline <= 0:
            return
        if self._in_scenario and self.error is None:
            self._check_invariants()
        # Twice in a row: a task in wait_all_tasks_blocked() runs again after the first.
        self._idle_passes += now.seconds_to_next_deadline == math.inf
        if self._idle_passes >= 2:
            self._idle_passes = 0
            if self.error is not None:
                self._break_off()
            else:
                waiting = self._whereabouts(task for task in self.living if task not in self._tasks_of_trio)
                self.fail(f"hang: every task is blocked, and no deadline is left that could wake one: {waiting}")

    def _check_invariants(self) -> None:
        for check in self.invariants:
            try:
                if check() is False:
                    raise AssertionError(f"an invariant is False while every task is blocked: {check!r}")
            except BaseException as error:
                self.fail(error)
                return

    def _whereabouts(self, tasks: Iterable[trio.lowlevel.Task]) -> str:
        return "; ".join(f"{self.names[self.living[task]]} at {_innermost_line(task)}" for task in tasks)

    def _break_off(self) -> None:
        """Stop Trio's loop, since the tasks refuse to be cancelled; the clock is the one part of it that is ours."""

        def stop() -> NoReturn:
            raise RuntimeError("cancellation sweep: this run was broken off")

        self._broken_off = True
        self._clock.current_time = stop  # type: ignore[method-assign]


class PinnedSchedule:
    """Makes the order in which Trio runs its tasks repeatable inside the block, and restores what it found.

    This and the next function hold all that the sweep knows of Trio's private parts.
    """

    def __enter__(self) -> PinnedSchedule:
        self._module = _trio_scheduler()
        self._found = self._module._ALLOW_DETERMINISTIC_SCHEDULING, self._module._r.getstate()
        self._module._ALLOW_DETERMINISTIC_SCHEDULING = True
        return self

    def seed(self, seed: int) -> None:
        self._module._r.seed(seed)

    def __exit__(self, *_: object) -> None:
        self._module._ALLOW_DETERMINISTIC_SCHEDULING, state = self._found
        self._module._r.setstate(state)


def _trio_scheduler() -> Any:
    module: ModuleType | None = None
    with contextlib.suppress(ImportError):
        module = importlib.import_module("trio._core._run")
    has_flag = isinstance(getattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING", None), bool)
    has_random = isinstance(getattr(module, "_r", None), random.Random)
    if not (has_flag and has_random and hasattr(trio.lowlevel.Task, "_next_send")):
        raise RuntimeError(
            f"cancellation_sweep() can't pin the schedule of trio {trio.__version__}: its scheduler has changed "
            "(_ALLOW_DETERMINISTIC_SCHEDULING, _r, Task._next_send); a newer trioresil or an older trio will do"
        )
    return module


def _cancellation_about_to_be_raised(task: trio.lowlevel.Task) -> trio.Cancelled | None:
    error = getattr(getattr(task, "_next_send", None), "error", None)
    return error if isinstance(error, trio.Cancelled) else None


def _make_immortal(coroutine: object) -> None:
    """Keep Python from ever finalizing a coroutine that wouldn't end.

    Finalizing raises GeneratorExit in it, outside of Trio, where each await fails at once. What caught its
    cancellations in a loop would then loop for ever, in the garbage collector or as the program exits. It is a leak, in
    a test that has failed.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _bare(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _name(scenario: object) -> str:
    while isinstance(scenario, functools.partial):
        scenario = scenario.func
    return str(getattr(scenario, "__qualname__", repr(scenario)))


def _innermost_line(task: trio.lowlevel.Task) -> str:
    """The line that a task waits in, Trio's own lines left out."""
    place = "an unknown place"
    with contextlib.suppress(TypeError):  # an awaitable that Trio can't look into
        for frame, line in task.iter_await_frames():
            if not str(frame.f_globals.get("__name__")).startswith("trio."):
                place = f"{PurePath(frame.f_code.co_filename).name}:{line}"
    return place
