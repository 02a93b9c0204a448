"""Objects whose attributes are set while they are built and never again."""

from __future__ import annotations


class Immutable:
    """A base for what many tasks share and what keeps decisions made from its arguments: to change it would change half of it.

    A constructor sets attributes as usual and `_built = True` last. Reading costs nothing more.
    """

    __slots__ = ()

    _built = False

    def __setattr__(self, name: str, value: object) -> None:
        if self._built:
            raise AttributeError(
                f"{self!r} can't be changed: .replace({name}=...) returns a copy with another {name}",
                name=name,
                obj=self,
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r} can't be changed: .replace(...) returns a changed copy", name=name, obj=self)
