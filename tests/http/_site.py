"""An ordinary web site, as an ASGI application: what the tests of client behaviours ask for."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route


async def _hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def _echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "headers": dict(request.headers),
            "body": body.decode("latin-1"),
        }
    )


async def _redirect(request: Request) -> Response:
    left = int(request.path_params["left"])
    return RedirectResponse(f"/redirect/{left - 1}" if left > 1 else "/echo", status_code=302)


async def _redirect_to(request: Request) -> Response:
    return RedirectResponse(request.query_params["url"], status_code=int(request.query_params.get("status", 302)))


async def _basic(request: Request) -> Response:
    if request.headers.get("authorization") == "Basic dXNlcjpwYXNz":
        return PlainTextResponse("welcome")
    return PlainTextResponse("who?", status_code=401, headers={"WWW-Authenticate": 'Basic realm="here"'})


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def _digest(request: Request) -> Response:
    sent = dict(re.findall(r'(\w+)="?([^",]+)"?', request.headers.get("authorization", "")))
    if sent:
        who = _md5(f"{sent['username']}:here:pass")
        what = _md5(f"{request.method}:{sent['uri']}")
        if sent["response"] == _md5(f"{who}:{sent['nonce']}:{sent['nc']}:{sent['cnonce']}:auth:{what}"):
            return PlainTextResponse("welcome")
    challenge = 'Digest realm="here", nonce="n0nce", qop="auth", algorithm=MD5'
    return PlainTextResponse("who?", status_code=401, headers={"WWW-Authenticate": challenge})


async def _set_cookie(request: Request) -> Response:
    response = RedirectResponse("/cookies")
    response.set_cookie("flavour", request.query_params["flavour"])
    return response


async def _cookies(request: Request) -> Response:
    return JSONResponse(dict(request.cookies))


async def _stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(int(request.path_params["pieces"])):
            yield f"{number:04}\n".encode() * 200

    return StreamingResponse(pieces(), media_type="text/plain")


async def _upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    encoding = request.headers.get("transfer-encoding")
    return JSONResponse({"size": size, "sha256": digest.hexdigest(), "encoding": encoding})


async def _status(request: Request) -> Response:
    return Response(status_code=int(request.path_params["code"]))


async def _compressed(request: Request) -> Response:
    kind = request.path_params["kind"]
    packed = gzip.compress(b"x" * 10_000) if kind == "gzip" else zlib.compress(b"x" * 10_000)
    return Response(packed, headers={"Content-Encoding": kind}, media_type="text/plain")


async def _form(request: Request) -> Response:
    return JSONResponse(
        {"type": request.headers["content-type"].split(";")[0], "body": (await request.body()).decode()}
    )


ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

SITE = Starlette(
    routes=[
        Route("/hello", _hello),
        Route("/echo", _echo, methods=ANY),
        Route("/redirect/{left:int}", _redirect),
        Route("/redirect-to", _redirect_to, methods=ANY),
        Route("/basic", _basic),
        Route("/digest", _digest),
        Route("/cookies/set", _set_cookie),
        Route("/cookies", _cookies),
        Route("/stream/{pieces:int}", _stream),
        Route("/upload", _upload, methods=["POST", "PUT"]),
        Route("/status/{code:int}", _status, methods=ANY),
        Route("/compressed/{kind}", _compressed),
        Route("/form", _form, methods=["POST"]),
    ]
)
