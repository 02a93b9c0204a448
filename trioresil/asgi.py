"""ASGI applications about a program's health; needs the extra `cli`."""

from . import _checks

try:
    import starlette as _  # noqa: F401
except ImportError as _error:
    raise ImportError("trioresil.asgi needs Starlette: pip install 'trioresil[cli]'", name=_error.name) from _error

from ._web._health_app import health_app as health_app

_checks.fix_module_names(__name__, globals())
