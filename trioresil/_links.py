"""Links: what a chain of policies is made of, and what each of them may know of the others.

A *link* is `async (args, kwargs) -> result`: the positional and keyword arguments of one call, packed once at the entrance of
the chain and unpacked once in front of the user's function, so that the links between re-pack nothing. The outermost step of a
chain checks for cancellation, once; the innermost (`entered`) is the only place that touches the user's function.

What came out of the user's function has started. That is noted there, on the failure path only, on the exception itself: in the
`started` of a trioresil error, and for anything else in a Passage beside it, which a Timeout further out reads when a
cancellation of its own comes by. So no link keeps state for a call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar
from weakref import ref

from trio.lowlevel import checkpoint_if_cancelled

from ._errors import ChangedArgumentsError, NotAwaitableError, TrioresilError, outside_trio
from ._notes import name_of

W = TypeVar("W", bound=Callable[..., Any])
Link: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any]], Awaitable[Any]]

_CHAIN: Final = "__trioresil_chain__"
_PASSAGE: Final = "__trioresil_passage__"
_NOT_CALLED: Final = object()
_ours: Final[set[Callable[..., Any]]] = set()


class Linking:
    """Marks policies: a bound method of one is not the user's code, and a chain looks through it."""

    __slots__ = ()


class _Chain:
    """The chain behind a policy's wrapper, without its entrance; an attribute of the wrapper.

    It knows whose it is, because a user's decorator that copies attributes would else be taken for the wrapper that it stands
    around, and be left out. It is no entry of a global table, weak or not, because the chain may lead back to its wrapper (a
    function that calls itself), and then neither would ever be freed.
    """

    __slots__ = ("_wrapper", "link")

    def __init__(self, wrapper: Callable[..., Any], link: Link) -> None:
        self._wrapper = ref(wrapper)
        self.link = link

    @staticmethod
    def behind(fn: Callable[..., Any]) -> Link | None:
        found = getattr(fn, _CHAIN, None)
        return found.link if isinstance(found, _Chain) and found._wrapper() is fn else None


class Passage:
    """What the links that an exception passed knew: whether the call had started, and notes, innermost first."""

    __slots__ = ("notes", "started")

    def __init__(self) -> None:
        self.started: bool | None = None
        self.notes: list[str] = []


def passage(exc: BaseException) -> Passage:
    """Return the exception's Passage, a new one if it has none yet."""
    found = exc.__dict__.get(_PASSAGE)
    if found is None:
        found = exc.__dict__[_PASSAGE] = Passage()
    assert isinstance(found, Passage)
    return found


def mark_started(exc: BaseException) -> None:
    """Note on an exception, and on the leaves of a group, that what raised it had started."""
    if isinstance(exc, TrioresilError):
        exc.started = True
    elif isinstance(exc, BaseExceptionGroup):
        for leaf in exc.exceptions:
            mark_started(leaf)
    if not isinstance(exc, Exception):
        passage(exc).started = True


def mark_unstarted(exc: BaseException) -> None:
    """Note on a passing cancellation that the call was still waiting to be let in."""
    if not isinstance(exc, Exception):
        passage(exc).started = False


def can_share_chain(fn: object) -> bool:
    """Tell whether a function may be called through a policy's chain of calls: it has, and has copied, no chain of its own."""
    return callable(fn) and not hasattr(fn, _CHAIN)


def make_link(fn: Callable[..., Any]) -> Link:
    """Return the innermost link of a chain around a function: a policy's wrapper, or a user's function."""
    if not callable(fn):
        raise _not_callable(fn)
    return _Chain.behind(fn) or _enter(fn)


def finish_wrapper(wrapper: W, fn: Callable[..., Any], link: Link) -> W:
    """Give a policy's wrapper the name and documentation of what it wraps, and remember its chain."""
    functools.update_wrapper(wrapper, fn)
    setattr(wrapper, _CHAIN, _Chain(wrapper, link))
    return wrapper


def _enter(fn: Callable[..., Any]) -> Link:
    async def entered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        awaitable: Any = _NOT_CALLED
        try:
            awaitable = fn(*args, **kwargs)
            return await awaitable
        except BaseException as exc:
            _came_out(fn, awaitable, exc)
            raise

    return entered


class Called(dict[str, Any]):
    """Stands for the keyword arguments of a `call`, which has none, and carries the function that is called.

    So a policy needs one chain for all its calls, instead of a new one for each.
    """

    __slots__ = ("fn",)

    fn: Callable[..., Any]


async def enter_called(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Be the innermost link of such a chain."""
    if type(kwargs) is not Called:
        raise ChangedArgumentsError("a link must hand on the arguments that it was given, as they are")
    awaitable: Any = _NOT_CALLED
    try:
        awaitable = kwargs.fn(*args)
        return await awaitable
    except BaseException as exc:
        _came_out(kwargs.fn, awaitable, exc)
        raise


def _came_out(fn: Callable[..., Any], awaitable: object, exc: BaseException) -> None:
    """Note on what came out of a function that it had started, if the function is the user's; refuse what isn't async."""
    if type(exc) is TypeError and awaitable is not _NOT_CALLED and not inspect.isawaitable(awaitable):
        raise _not_awaitable(fn, awaitable) from None
    if not is_policy_call(fn):
        mark_started(exc)


def looked_through(fn: W) -> W:
    """Mark a function of ours, such as acquire_all: a chain looks through it as through a bound method of a policy."""
    _ours.add(fn)
    return fn


def is_policy_call(fn: Callable[..., Any]) -> bool:
    """Tell whether calling fn enters a policy first: a wrapper, a bound method of a policy, or a partial of either."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isfunction(fn) and fn in _ours:
        return True
    if inspect.ismethod(fn):
        return isinstance(fn.__self__, Linking) or _Chain.behind(fn.__func__) is not None
    return _Chain.behind(fn) is not None


async def check_cancelled() -> None:
    """Check for cancellation, without letting other tasks run; outside of Trio, say what to do."""
    try:
        await checkpoint_if_cancelled()
    except BaseException as exc:
        not_let_in(exc)
        raise


def not_let_in(exc: BaseException) -> None:
    """Note on a cancellation met at an entrance that nothing was started; outside of Trio, raise what says what to do."""
    if isinstance(exc, RuntimeError) and (advice := outside_trio(exc)) is not exc:
        raise advice from None
    mark_unstarted(exc)


def refuse_generators(fn: Callable[..., Any]) -> None:
    """Refuse, for decorators, what can't be a single call: generator functions of either kind, and non-functions."""
    if not callable(fn):
        raise _not_callable(fn)
    if inspect.iscoroutinefunction(fn):
        return  # what it wraps may be a generator function that it runs to the end
    inner = inspect.unwrap(fn)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        raise TypeError(
            f"{name_of(fn)} is a generator function, whose failures come after the call has returned: "
            "put the policy around the calls inside of it"
        )


def _not_callable(fn: object) -> TypeError:
    if inspect.iscoroutine(fn):
        name = fn.__qualname__
        fn.close()
        return TypeError(
            f"an async function is wanted, not the coroutine that calling it gives: pass {name}, without (...)"
        )
    return TypeError(f"an async function is wanted, not {fn!r}")


def _not_awaitable(fn: Callable[..., Any], result: object) -> NotAwaitableError:
    return NotAwaitableError(f"{name_of(fn)} must return something to await (is it async?), but it returned {result!r}")
