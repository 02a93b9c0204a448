"""The cancellation sweep: one run of a scenario for every moment at which its victim can be cancelled.

The law of this file:

1. A rehearsal without a cancellation lists the moments; then there is one run for each, which cancels there.
2. Chance is seeded, Trio's scheduler included, so that a moment can be found again. The rehearsal is held twice: a
   scenario that takes other steps the second time can't be swept, and is told so instead of passing by luck. Each
   later run must repeat the rehearsal up to its moment.

Rejected: random fuzzing of the moment, which meets a race of one step in 300 by chance only; and cancelling by a
deadline, which never falls between a grant and the step that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trioresil import _checks

from ._sweep_run import Moment as Moment
from ._sweep_run import PinnedSchedule, Run, Scenario
from ._sweep_run import Sweep as Sweep

if TYPE_CHECKING:
    from collections.abc import Iterable


class SweepFailure(AssertionError):
    """A scenario failed at one moment; ``__cause__`` is the error itself, out of any group that held it alone.

    Attributes:
      moment (Moment): where; ``cancellation_sweep(scenario, only=failure.moment)`` replays this run alone.
      error (BaseException): what the scenario or an invariant raised, or an AssertionError that describes a hang, a
        livelock, a swallowed cancellation or a task that outlived the scenario.
    """

    def __init__(self, moment: Moment, error: BaseException) -> None:
        super().__init__(moment, error)
        self.moment = moment
        self.error = error
        self.__cause__: BaseException | None = error

    def __str__(self) -> str:
        return f"{self.moment}: {type(self.error).__name__}: {self.error}\nreplay: only={self.moment!r}"


@attrs.frozen(kw_only=True)
class SweepReport:
    """What a sweep did."""

    moments: int
    """How many moments were tried, over all seeds."""
    runs: int
    """How many times the scenario was run: a run for each moment, two rehearsals for each seed."""
    cancelled: int
    """In how many runs the victim's scope caught its cancellation; in the others the victim ended before that."""
    failures: tuple[SweepFailure, ...]
    """The failing moments in order; empty unless ``collect=True`` was asked for."""

    def __str__(self) -> str:
        return f"{len(self.failures)} of {self.moments} moments failed"


def cancellation_sweep(
    scenario: Scenario,
    *,
    seeds: Iterable[int] = range(3),
    max_steps: int = 10_000,
    only: Moment | None = None,
    collect: bool = False,
) -> SweepReport:
    """Run a scenario once for every moment at which its victim can be cancelled, and fail if any of the runs does.

    A test that cancels after one second tries one moment out of hundreds; permits are lost at the others, between a
    grant and the step that uses it. This tries them all, on a virtual clock, at about a millisecond each. It says
    nothing about other scenarios, and varies nothing inside this one: use property tests for that.

    Synopsis::

        async def scenario(sweep: Sweep) -> None:
            limit = trio.CapacityLimiter(1)
            sweep.when_quiet(lambda: not (limit.available_tokens and limit.statistics().tasks_waiting))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other, limit)
                with sweep.victim():
                    async with limit:
                        await trio.sleep(1)
            assert limit.borrowed_tokens == 0

        def test_cancelled_borrower_gives_its_token_back() -> None:
            cancellation_sweep(scenario)

    Each run is a ``trio.run`` of its own on a new MockClock, so this is called from a plain ``def``. A run fails if the
    scenario or an invariant raises, if everything is blocked for good, if it takes too many steps, if the victim
    swallows its cancellation, or if a system task outlives the scenario. An error that the scenario provokes on purpose
    is caught inside it, so that its last assertions are still reached. Threads and real network peers can't be swept:
    to virtual time they look like a hang.

    Args:
      scenario (async (Sweep) -> object): makes everything afresh, opens ``sweep.victim()`` once, asserts at its end. It
        must take the same steps each time: no real time, and chance only from ``sweep.rng``.
      seeds (iterable of int, each >= 0): schedules to try; the seed decides in which order runnable tasks are run.
        Default: range(3).
      max_steps (int, task steps, >= 1): a run that takes more is a livelock. Default: 10_000.
      only (Moment): replay this moment of a failure, and no other; ``seeds`` is not used then. Default: None, all.
      collect (bool): put failing moments into the report instead of raising the first. Default: False.

    Raises:
      SweepFailure: a run failed; it names the moment, and the error is its ``__cause__``. A scenario that fails without
        any cancellation raises it with ``collect=True`` too: there is nothing to sweep.
      RuntimeError: the scenario can't be swept (not deterministic, or without a victim); or called inside a Trio run.
      ValueError: an argument is out of range, or ``only`` is no moment of this scenario.
    """
    if not callable(scenario):
        raise TypeError(f"scenario must be an async function (Sweep) -> None, not {scenario!r}")
    if only is not None and not isinstance(only, Moment):
        raise TypeError(f"only must be a Moment, not {only!r}")
    wanted = [_checks.whole("seeds", seed, least=0) for seed in (seeds if only is None else [only.seed])]
    if not wanted:
        raise ValueError("seeds must hold at least one seed, not none")
    _checks.flag("collect", collect)
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("cancellation_sweep() calls trio.run() itself: call it from a plain def, outside of Trio")
    with PinnedSchedule() as schedule:
        sweeper = _Sweeper(scenario, _checks.whole("max_steps", max_steps), schedule)
        for seed in wanted:
            sweeper.sweep(seed, only, collect)
    return SweepReport(
        moments=sweeper.moments, runs=sweeper.runs, cancelled=sweeper.cancelled, failures=tuple(sweeper.failures)
    )


class _Sweeper:
    """The order of the runs, and the count of what they gave."""

    def __init__(self, scenario: Scenario, max_steps: int, schedule: PinnedSchedule) -> None:
        self._scenario = scenario
        self._max_steps = max_steps
        self._schedule = schedule
        self.moments = self.runs = self.cancelled = 0
        self.failures: list[SweepFailure] = []

    def sweep(self, seed: int, only: Moment | None, collect: bool) -> None:
        rehearsal = self._rehearse(seed)
        moments = rehearsal.moments if only is None else [moment for moment in rehearsal.moments if moment == only]
        if only is not None and not moments and only.when != "never":
            first, last = rehearsal.moments[0].step, rehearsal.moments[-1].step
            raise ValueError(f"only must be a moment of this scenario (steps {first} to {last}), not {only!r}")
        for moment in moments:
            run = self._run(moment)
            if not run.fired or run.trace[: moment.step] != rehearsal.trace[: moment.step]:
                raise _not_deterministic(f"the run for {moment} went another way before that moment") from run.error
            self.moments += 1
            self.cancelled += run.victim_scope.cancelled_caught
            if run.error is not None:
                self.failures.append(SweepFailure(moment, run.error))
                if not collect:
                    raise self.failures[0]

    def _rehearse(self, seed: int) -> Run:
        never = Moment(seed=seed, when="never")
        first = self._run(never)
        if first.error is not None:
            raise SweepFailure(never, first.error)
        if not first.moments:
            raise RuntimeError("the scenario never opened sweep.victim(): there is nothing to cancel")
        second = self._run(never)
        if second.trace != first.trace or second.moments != first.moments or second.error is not None:
            steps = f"{len(first.trace)} steps at first, then {len(second.trace)}"
            raise _not_deterministic(f"two runs with seed {seed}, uncancelled, differ: {steps}") from second.error
        return first

    def _run(self, moment: Moment) -> Run:
        self._schedule.seed(moment.seed)
        self.runs += 1
        run = Run(moment, self._max_steps)
        run.execute(self._scenario)
        return run


def _not_deterministic(what: str) -> RuntimeError:
    return RuntimeError(
        f"the scenario is not deterministic: {what}. Does it use real time, chance that is not from sweep.rng, "
        "threads, or an object that outlives the run?"
    )
