"""The HTTP edge: one implementation, bound to httpx by `_bound_httpx` and to httpx2 by `_bound_httpx2`."""
