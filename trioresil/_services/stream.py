"""open_stream: one long conversation, held over many connections.

The law of this file:

1. Sessions follow each other in one task. Whatever ends one is judged in the same step: another follows, or the stream ends.
2. An item and its token enter in one step: `resume` is never ahead of what was received, nor behind.
3. A session that is over sends nothing: what it still had waiting is taken back before the next one begins.
4. What was received comes out before the error that ended the stream. That error belongs to whoever meets it: a reader, a
   sender, or else the end of a clean block.
5. Silence is measured from one sign of life to the next by the deadline of the session's scope, which is moved. While an item
   waits for room it is infinite: a slow reader is no silence.

Not built on the supervisor's runs: those are asked to stop, restarted in groups and hand on `started()`, none of which a session
knows; and what it knows, a deadline that moves, they don't. The delays between the two are the same.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar, get_args

import attrs
import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    current_task,
    disable_ki_protection,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .. import _instruments
from .._checks import chance, one_of, seconds, text, whole
from .._errors import NotAwaitableError, RejectedError, TimedOutError, in_another_run, outside_trio
from .._events import StreamBroken, StreamConnected, StreamGaveUp
from .._failures import On, check_on, failure_test
from .._kernel.backoff import Backoff, as_backoff, exponential
from .._kernel.intensity import Pauses
from .._kernel.mailbox import Mailbox, Put, WhenFull
from .._notes import name_of, raise_again
from .._policies.token_bucket import TokenBucket
from ._tasks import Tasks

T = TypeVar("T")
State: TypeAlias = Literal["waiting", "connecting", "connected", "ended"]
Reason: TypeAlias = Literal["failed", "returned", "silent", "rejected"]


@attrs.frozen(kw_only=True)
class StreamStatistics:
    """Snapshot of a Stream."""

    name: str
    """Its name."""
    state: State
    """waiting: for its back-off, or for its limit; connecting: a session runs and has shown no sign of life yet; connected: it
    has; ended: there will be no other session."""
    sessions: int
    """How many sessions there have been, the one that runs included."""
    received: int
    """Items that sessions have sent, those that were dropped included: delivered + dropped + buffered."""
    delivered: int
    """Items that readers have taken."""
    dropped: int
    """Items that were dropped because the buffer was full: the oldest or the newest each time, as `when_full` says."""
    buffered: int
    """Items that wait for a reader."""
    outgoing: int
    """Messages that wait for a session."""
    resume: Any
    """The last token; None: there is none yet."""
    last_error: Exception | None
    """What ended the stream, or before that what ended a session last, if it raised or fell silent. None: nothing yet."""


class open_stream(Generic[T]):
    """Hold a connection for as long as the program needs it, and make it again when it breaks.

    For what is received rather than asked for: a WebSocket, server-sent events, a subscription, a change feed. For single
    calls use a Retry, for connections that many tasks borrow use open_pool.

    `session` holds one connection: it makes it, sends what arrives into the stream, and returns or raises when it is over.
    Then it is run again, after a back-off. Readers see one sequence of items.

    Synopsis::

        async def session(link: trioresil.StreamLink[str]) -> None:
            async with open_websocket_url(URL) as ws:
                link.alive()
                while True:
                    await link.send_item(await ws.get_message())

        def is_passing(error: Exception) -> bool:  # a refusal, as a 401, is a HandshakeError too
            broken = (OSError, ConnectionClosed, HandshakeError)
            return isinstance(error, broken) and not isinstance(error, ConnectionRejected)

        async with trioresil.open_stream(session, on=is_passing) as stream:
            async for item in stream:
                ...

    Fairness: items come out in the order in which they went in, to readers in the order of their arrival.
    Sharing: any task of the run may read and send.

    Args:
      session (async (StreamLink) -> object): one connection's life.
      on (exception class, tuple of classes, or (Exception) -> bool): after what the session is run again. Everything else, as
        a 401, ends the stream and comes out as it is. Must not raise.
      backoff (Backoff, or list of seconds): the delays between sessions. Default: None, exponential().
      give_up_after (float, seconds, > 0): if the next session would begin so long after the last item, or the opening, or later,
        the stream ends at once with the last error. Default: math.inf.
      stable_after (float, seconds, >= 0): after a session of so long the back-off starts afresh. Default: 30.
      heartbeat_timeout (float, seconds, > 0): a session that is silent for so long is cancelled and run again, whatever `on`
        says. send_item and alive() are signs of life, and so is its start. Default: math.inf.
      buffer (int >= 0): how many items wait for a reader. Default: 100.
      outgoing (int >= 0): how many messages wait for a session. Default: 100.
      when_full ("wait", "drop_oldest", "drop_newest"): what send_item does if the buffer is full: wait, which holds the
        connection back, or drop an item, which is counted. "drop_oldest" needs a buffer of 1 at least. Default: "wait".
      resume (anything): a token to begin with, from an earlier run of the program. Default: None.
      limit (TokenBucket): each session waits for a token first. Shared by many streams it spreads their dials when a server
        comes back. The wait is no silence. A rejection counts as a session that broke; the next begins after its
        `retry_after`, if that is later than the back-off says. Default: None.
      rng (random.Random): chance, for the back-off. Default: None, seeded by the system.
      name (str): its name in errors, events and statistics. Default: "stream".

    Cancellation: opening waits for nothing. Leaving cancels the session and waits until it is over.

    Raises:
      Exception: out of a clean block, what ended the stream, if no reader and no sender has met it; as it was raised.

    Source: the reconnecting EventSource of the WHATWG, for the token; Phoenix channels, for the heartbeat.
    """

    def __init__(
        self,
        session: Callable[[StreamLink[T]], Awaitable[object]],
        *,
        on: On,
        backoff: Backoff | Iterable[float] | None = None,
        give_up_after: float = math.inf,
        stable_after: float = 30.0,
        heartbeat_timeout: float = math.inf,
        buffer: int = 100,
        outgoing: int = 100,
        when_full: WhenFull = "wait",
        resume: Any = None,
        limit: TokenBucket | None = None,
        rng: random.Random | None = None,
        name: str = "stream",
    ) -> None:
        self.name: str = text("name", name)
        if not callable(session):
            raise TypeError(f"session must be an async function (StreamLink) -> None, not {session!r}")
        self._session = session
        self._is_failure = failure_test(check_on(on))
        self._backoff = exponential() if backoff is None else as_backoff("backoff", backoff)
        self._give_up_after = seconds("give_up_after", give_up_after, zero=False)
        self._stable_after = seconds("stable_after", stable_after)
        self._heartbeat_timeout = seconds("heartbeat_timeout", heartbeat_timeout, zero=False)
        self._when_full: WhenFull = one_of("when_full", when_full, get_args(WhenFull))
        self._buffer = whole("buffer", buffer, least=0)
        if self._when_full == "drop_oldest" and not self._buffer:
            raise ValueError("buffer must be a whole number >= 1 with when_full='drop_oldest', not 0")
        self._outgoing = whole("outgoing", outgoing, least=0)
        self._resume = resume
        if limit is not None and not isinstance(limit, TokenBucket):
            raise TypeError(f"limit must be a trioresil.TokenBucket, not {limit!r}")
        self._limit = limit
        self._rng = chance("rng", rng) or random.Random()
        self._stream: Stream[T] | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Stream[T]:
        if self._stream is not None:
            raise RuntimeError(f"{self.name}: this stream was opened already: call open_stream() for each `async with`")
        try:
            stream = Stream(self)
        except RuntimeError as exc:
            raise outside_trio(exc) from None
        await stream._tasks.__aenter__()
        self._stream = stream
        stream._open()
        return stream

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        stream = self._stream
        assert stream is not None
        stream._tasks.check_task()
        stream._close(error)
        return await stream._tasks.__aexit__(kind, error, traceback)


async def serve_stream(
    session: Callable[[StreamLink[Any]], Awaitable[object]],
    *,
    task_status: trio.TaskStatus[Stream[Any]] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Keep a stream open until this is cancelled, for a nursery that outlives the function that starts it.

    What ends the stream comes out where it is read, or sent to; not here.

    Synopsis::

        stream = await nursery.start(functools.partial(trioresil.serve_stream, session, on=OSError))

    Args:
      session (async (StreamLink) -> object): one connection's life.
      task_status: tells the Stream to `nursery.start`.
      **options: what `open_stream` takes.

    Cancellation: closes the stream.
    """
    async with open_stream(session, **options) as stream:
        task_status.started(stream)
        await trio.sleep_forever()


class StreamLink(Generic[T]):
    """One session's end of a stream: what `session` is called with. It is not built by hand.

    Attributes:
      number (int): which session this is; 1 is the first.
      outgoing (trio.MemoryReceiveChannel): what was sent to the stream. What a session has taken from here and not transmitted
        is lost when it breaks; what it has not taken waits for the next one.
    """

    def __init__(self, stream: Stream[T], number: int, outgoing: trio.MemoryReceiveChannel[Any], /) -> None:
        self.number = number
        self.outgoing = outgoing
        self._stream = stream
        self._heartbeat_timeout = stream._options._heartbeat_timeout
        self._began_at = stream._now()
        self._scope = trio.CancelScope(deadline=self._began_at + self._heartbeat_timeout)
        self._senders: dict[_Sender[T], None] = {}
        self._is_over = self._is_connected = self._is_last = False

    @property
    def resume(self) -> Any:
        """The last token that was sent with an item, in this session or before; the `resume` of open_stream at first."""
        return self._stream._resume

    @enable_ki_protection
    async def send_item(self, item: T, *, resume: Any = None) -> None:
        """Send an item to the readers. A sign of life.

        If the buffer is full this waits for room, or drops an item, as `when_full` says.

        Args:
          item: what readers get.
          resume: a token from which a later session can go on behind this item. It becomes `link.resume` at the moment in which
            the item goes into the buffer, or is dropped; never before. Default: None, the token stays as it is.

        Cancellation: a full checkpoint; the item has not been sent, and the token has not changed.

        Raises:
          RuntimeError: the session is over.
        """
        self._check_running()
        await checkpoint_if_cancelled()
        self._show_life()
        if self._stream._mailbox.put(item) is not Put.FULL:
            self._received(resume)
            await cancel_shielded_checkpoint()
            return
        sender = _Sender(self, item, resume)
        self._senders[sender] = None
        self._stream._mailbox.wait_to_put(sender)
        self._scope.deadline = math.inf
        await wait_task_rescheduled(sender.abort)
        if not sender.has_entered:
            raise self._over()

    def alive(self) -> None:
        """Show a sign of life, as for a pong, or when the connection has been made.

        Cancellation: no checkpoint.
        """
        if not self._is_over:
            self._show_life()

    def finish(self) -> None:
        """Let the stream end after this session, when it returns, or breaks by what `on` matches.

        Readers get what was received, and then their loops end.

        Cancellation: no checkpoint.

        Raises:
          RuntimeError: the session is over.
        """
        self._check_running()
        self._is_last = True

    def __repr__(self) -> str:
        state = "over" if self._is_over else "connected" if self._is_connected else "connecting"
        return f"<trioresil.StreamLink {self.number} of {self._stream.name!r} {state}>"

    def _check_running(self) -> None:
        if self._is_over:
            raise self._over()

    def _over(self) -> RuntimeError:
        return RuntimeError(f"{self._stream.name}: session {self.number} is over, and its link can't be used any more")

    def _show_life(self) -> None:
        now = self._stream._now()
        if not self._senders:
            self._scope.deadline = now + self._heartbeat_timeout
        if not self._is_connected:
            self._is_connected = True
            self._stream._state = "connected"
            _instruments.emit(StreamConnected, policy=self._stream, session=self.number, seconds=now - self._began_at)

    def _received(self, resume: Any) -> None:
        """Note that an item has gone into the buffer, or was dropped."""
        stream = self._stream
        stream._last_item_at = stream._now()
        stream._failure = None
        if resume is not None:
            stream._resume = resume

    def _leave_queue(self, sender: _Sender[T]) -> None:
        del self._senders[sender]
        self._show_life()

    def _end(self) -> None:
        self._is_over = True
        senders, self._senders = self._senders, {}
        for sender in senders:
            self._stream._mailbox.withdraw_sender(sender)
            reschedule(sender.task)
        self.outgoing.close()


class _Sender(Generic[T]):
    """A send_item that waits for room."""

    __slots__ = ("_link", "_resume", "has_entered", "item", "task")

    def __init__(self, link: StreamLink[T], item: T, resume: Any) -> None:
        self._link = link
        self._resume = resume
        self.item = item
        self.task = current_task()
        self.has_entered = False

    def entered(self) -> None:
        self.has_entered = True
        self._link._received(self._resume)
        self._link._leave_queue(self)
        reschedule(self.task)

    def abort(self, _: RaiseCancelT) -> Abort:
        self._link._stream._mailbox.withdraw_sender(self)
        self._link._leave_queue(self)
        return Abort.SUCCEEDED


class _Reader(Generic[T]):
    """A reader that waits for an item."""

    __slots__ = ("_mailbox", "items", "task")

    def __init__(self, mailbox: Mailbox[T]) -> None:
        self._mailbox = mailbox
        self.task: Task = current_task()
        self.items: list[T] = []

    def give(self, item: T) -> None:
        self.items.append(item)
        reschedule(self.task)

    def abort(self, _: RaiseCancelT) -> Abort:
        self._mailbox.withdraw_reader(self)
        return Abort.SUCCEEDED


class Stream(Generic[T]):
    """What `open_stream` opens: iterate over it for items, and send messages. It is not built by hand.

    Iterating is a full checkpoint for each item; if it is cancelled, no item is lost. It ends when a session has called
    `link.finish()`, and raises what ended the stream otherwise; each time that it is asked.

    Attributes:
      name (str): its name.
    """

    def __init__(self, options: open_stream[T], /) -> None:
        self.name: str = options.name
        self._options = options
        self._clock = current_clock()
        self._tasks = Tasks(self.name)
        self._mailbox: Mailbox[T] = Mailbox(options._buffer, options._when_full)
        self._pauses = Pauses(options._backoff, options._rng, options._stable_after)
        self._messages, self._outgoing = trio.open_memory_channel[Any](options._outgoing)
        self._resume = options._resume
        self._state: State = "waiting"
        self._sessions = 0
        self._last_item_at = self._clock.current_time()  # or the opening
        self._last_error: Exception | None = None
        self._failure: Exception | None = None  # the last error since the last item
        self._end_error: Exception | None = None  # what ended the stream
        self._end_traceback: TracebackType | None = None  # as it was then, for it may be raised many times
        self._is_met = self._is_closed = False

    # -- for users -------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Stream[T]:
        return self

    @enable_ki_protection
    async def __anext__(self) -> T:
        await checkpoint_if_cancelled()
        self._now()
        if not self._is_closed:
            try:
                item = self._mailbox.take()
            except IndexError:
                pass
            else:
                await cancel_shielded_checkpoint()
                return item
        if self._state == "ended" or self._is_closed:
            await cancel_shielded_checkpoint()
        else:
            reader = _Reader(self._mailbox)
            self._mailbox.wait_to_take(reader)
            await wait_task_rescheduled(reader.abort)
            for item in reader.items:
                return item
        self._raise_end(StopAsyncIteration())

    @enable_ki_protection
    async def send(self, message: Any) -> None:
        """Send a message to the session; while there is none it waits for the next, up to `outgoing` messages.

        A message is handed over once: what a session has taken and not transmitted when it breaks is lost.

        Args:
          message: what `link.outgoing` gives.

        Cancellation: a full checkpoint; the message has not been sent. Waits while the queue is full.

        Raises:
          Exception: what ended the stream, as it was raised.
          trio.BrokenResourceError: the stream was ended by `link.finish()`.
          trio.ClosedResourceError: the block of the stream has been left.
        """
        self._now()
        if self._state == "ended" or self._is_closed:
            await checkpoint()
        else:
            with contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError
            ):  # it has ended in the meantime
                await self._messages.send(message)
                return
        self._raise_end(trio.BrokenResourceError(f"{self.name}: the stream has ended"))

    def statistics(self) -> StreamStatistics:
        """Return a snapshot; works outside of a run."""
        return StreamStatistics(
            name=self.name,
            state=self._state,
            sessions=self._sessions,
            received=self._mailbox.received,
            delivered=self._mailbox.delivered,
            dropped=self._mailbox.dropped,
            buffered=len(self._mailbox),
            outgoing=self._messages.statistics().current_buffer_used,
            resume=self._resume,
            last_error=self._last_error,
        )

    def __repr__(self) -> str:
        box = self._mailbox
        dropped = f", {box.dropped} dropped" if box.dropped else ""
        return (
            f"<trioresil.Stream {self.name!r} {self._state}, session {self._sessions}, "
            f"{len(box)}/{box.size} items{dropped}, {self.statistics().outgoing}/{self._options._outgoing} to send>"
        )

    # -- from session to session -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        if _instruments.installed:
            _instruments.announce(self)
        self._tasks.start_soon(self._run, name=f"{self.name}: runs its sessions")

    @enable_ki_protection
    async def _run(self) -> None:
        try:
            while (over := await self._run_session()).is_followed:
                await checkpoint_if_cancelled()  # which the session may have turned into an error that matches
                delay = self._plan(over)
                _instruments.emit(
                    StreamBroken,
                    policy=self,
                    session=self._sessions,
                    reason=over.reason,
                    error=over.error,
                    delay=delay,
                )
                await trio.sleep(delay)
        except Exception as exc:
            if self._is_closed:
                raise
            self._end_error, self._end_traceback = exc, exc.__traceback__
            self._last_error = exc
        except BaseException:
            self._tasks.cancel(f"{self.name}: its session was cut off")  # first, so that whoever can be cancelled is
            self._end_error, self._is_met = trio.ClosedResourceError(f"{self.name}: the stream was cancelled"), True
            raise
        finally:
            self._state = "ended"
            self._outgoing.close()
            self._wake_readers()

    async def _run_session(self) -> _Over:
        """Hold one connection; return how it ended, or raise what ends the stream."""
        options = self._options
        try:
            if options._limit is not None:
                await options._limit.acquire()
        except RejectedError as exc:
            self._last_error = self._failure = exc
            return _Over("rejected", exc)
        self._sessions += 1
        link = StreamLink(self, self._sessions, self._outgoing.clone())
        self._state = "connecting"
        error: Exception | None = None
        try:
            with link._scope:
                await _call(options._session, link)
        except Exception as exc:
            error = exc
        except BaseExceptionGroup as group:
            self._raise_cut_off(group)
        finally:
            link._end()
            self._state = "waiting"
        return self._judge(link, error)

    def _raise_cut_off(self, group: BaseExceptionGroup) -> NoReturn:
        """Raise a session's cancellation without what it broke by on its way out, as a bare error that matches isn't raised."""

        def is_broken(error: BaseException) -> bool:
            return isinstance(error, Exception) and self._options._is_failure(error)

        if group.subgroup(trio.Cancelled) is not None:
            rest = group.split(is_broken)[1]
            assert rest is not None
            group = rest
        raise_again(group)

    def _judge(self, link: StreamLink[T], error: Exception | None) -> _Over:
        reason: Reason = "returned" if error is None else "failed"
        if link._scope.cancelled_caught or (link._scope.cancel_called and _came_of_cancellation(error)):
            silence = TimedOutError(self.name, link._heartbeat_timeout, started=True)
            silence.__cause__ = error
            reason, error = "silent", silence
        if error is not None:
            self._last_error = self._failure = error
            if reason == "failed" and not self._options._is_failure(error):
                self._give_up("error", error)
        return _Over(reason, error, self._now() - link._began_at, not link._is_last)

    def _plan(self, over: _Over) -> float:
        """Return how long to wait before the next session."""
        delay = self._pauses.next(over.lived)
        if isinstance(over.error, RejectedError):
            delay = max(delay, over.error.retry_after or 0.0)
        give_up_after = self._options._give_up_after
        if self._now() + delay >= self._last_item_at + give_up_after:
            self._give_up("time", self._failure or TimedOutError(self.name, give_up_after, started=True))
        return delay

    def _give_up(self, reason: Literal["error", "time"], error: Exception) -> NoReturn:
        _instruments.emit(StreamGaveUp, policy=self, sessions=self._sessions, reason=reason, error=error)
        raise_again(error)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def _close(self, error: BaseException | None) -> None:
        self._is_closed = True  # whoever waits is told when the last session is over
        if error is None and not self._is_met and self._end_error is not None:
            self._tasks.start_soon(self._raise_unmet, self._end_error)

    async def _raise_unmet(self, error: Exception) -> None:
        raise_again(error)

    def _raise_end(self, finished: Exception) -> NoReturn:
        """Raise what a reader or a sender gets when there is nothing else to get; `finished` if the stream ended well."""
        if self._is_closed:
            raise trio.ClosedResourceError(f"{self.name}: the block of this stream has been left")
        if self._end_error is not None:
            self._is_met = True
            raise_again(self._end_error.with_traceback(self._end_traceback))
        raise finished

    def _wake_readers(self) -> None:
        for reader in self._mailbox.readers:
            self._mailbox.withdraw_reader(reader)
            assert isinstance(reader, _Reader)
            reschedule(reader.task)

    def _now(self) -> float:
        if current_clock() is not self._clock:
            raise in_another_run(repr(self.name))
        return self._clock.current_time()


@attrs.frozen
class _Over:
    """How a session ended."""

    reason: Reason
    error: Exception | None
    lived: float = 0.0  # seconds
    is_followed: bool = True


def _came_of_cancellation(error: BaseException | None) -> bool:
    """Tell whether an error was raised while a cancellation was handled: its own deadline may have passed in the same instant.

    A group came of it if all that is in it did.
    """
    while error is not None and not isinstance(error, trio.Cancelled):
        if isinstance(error, BaseExceptionGroup) and all(map(_came_of_cancellation, error.exceptions)):
            return True
        error = error.__context__
    return error is not None


@disable_ki_protection  # what is called is the user's
async def _call(fn: Callable[..., Awaitable[object]], *args: Any) -> None:
    result = fn(*args)
    if not inspect.isawaitable(result):
        raise NotAwaitableError(f"{name_of(fn)} must be an async function, but it returned {result!r}")
    await result
