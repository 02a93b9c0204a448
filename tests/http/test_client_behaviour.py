"""What a client of httpx or httpx2 does, over the library's own transport and over ours: one suite, no difference.

Each test runs for both libraries over four transports: the library's own AsyncHTTPTransport, which proves the test, a
PoolTransport, and a ResilientTransport around each, with no retry and no circuit, so that errors come out as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.http._clients import LIBRARIES, TRANSPORTS, Edge, assert_at_rest
from tests.http._h2_server import H2Server, Stream
from tests.http._proxy_servers import ForwardProxy, SocksProxy
from tests.http._raw_server import Connection, RawServer, close_on_request, sends, silent
from tests.http._servers import Authority, BlackHole, start_hypercorn
from tests.http._site import SITE

pytestmark = pytest.mark.usefixtures("bounded")

OPTIONS = {"verify", "cert", "http1", "http2", "limits", "proxy", "uds", "local_address", "socket_options", "trust_env"}


class Subject:
    """One library over one transport."""

    def __init__(self, library: str, kind: str, authority: Authority) -> None:
        self.edge = Edge(library)
        self.lib = self.edge.lib
        self.kind = kind
        self.authority = authority

    def transport(self, **options: Any) -> Any:
        options.setdefault("verify", self.authority.client_context)
        return self.edge.transport(self.kind, **options)

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Any]:
        """A client; when its block ends, every slot must be back."""
        transport = self.transport(**{name: options.pop(name) for name in OPTIONS & options.keys()})
        pool = getattr(transport, "_transport", transport) if "pool" in self.kind else None
        async with self.lib.AsyncClient(transport=transport, trust_env=False, **options) as client:
            yield client
            if pool is not None:
                assert_at_rest(pool)


# The library's own transport leaks sockets and generators here and there, which is not what is tested; ours must not.
LEAKY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# A generator that belongs to the client layer or to the user's loop, and is left to the garbage collector by it.
LEFT_BEHIND = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


def _subjects(*kinds: str) -> list[Any]:
    return [
        pytest.param(f"{library}-{kind}", marks=LEAKY if kind.endswith("own") else ())
        for library in LIBRARIES
        for kind in kinds
    ]


@pytest.fixture(params=_subjects(*TRANSPORTS))
def subject(request: pytest.FixtureRequest, authority: Authority) -> Subject:
    library, _, kind = request.param.partition("-")
    return Subject(library, kind, authority)


@pytest.fixture
async def site(nursery: trio.Nursery) -> str:
    return await start_hypercorn(SITE, nursery)


# Requests and responses


async def test_a_response_tells_all_about_itself(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.respond(b"hi", status="200 Quite Fine", headers=[("X-Twice", "1"), ("X-Twice", "2")])

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        response = await client.get(f"{server.url}/path?q=1", headers={"X-Mine": "yes"})
    assert isinstance(response, subject.lib.Response)
    assert (response.status_code, response.reason_phrase, response.text) == (200, "Quite Fine", "hi")
    assert response.http_version == "HTTP/1.1"
    assert response.extensions["http_version"] == b"HTTP/1.1"
    assert response.extensions["reason_phrase"] == b"Quite Fine"
    assert response.headers.get_list("X-Twice") == ["1", "2"]
    assert response.request.url == f"{server.url}/path?q=1"
    assert response.elapsed.total_seconds() > 0
    (received,) = server.received
    assert (received.method, received.target) == ("GET", "/path?q=1")
    assert received.headers["x-mine"] == "yes"
    assert received.headers["host"] == f"127.0.0.1:{server.port}"


async def test_network_stream_tells_of_the_socket(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client() as client, client.stream("GET", server.url) as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("socket") is not None


async def test_network_stream_tells_of_tls(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client() as client, client.stream("GET", server.url) as response:
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        assert tls.version().startswith("TLS")
        assert tls.getpeercert()["subjectAltName"][0] == ("DNS", "localhost")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_arrives(subject: Subject, site: str, method: str) -> None:
    async with subject.client() as client:
        seen = (await client.request(method, f"{site}/echo?a=b", content=b"body")).json()
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == (method, "/echo", "a=b", "body")


async def test_head_has_headers_and_no_body(subject: Subject, site: str) -> None:
    async with subject.client() as client:
        response = await client.head(f"{site}/echo")
        assert response.content == b""
        assert int(response.headers["Content-Length"]) > 0
        assert (await client.get(f"{site}/hello")).text == "hello"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_an_answer_without_body_keeps_the_connection(
    subject: Subject, nursery: trio.Nursery, status: str
) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(f"HTTP/1.1 {status}\r\n\r\n".encode())

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        for _ in range(3):
            assert (await client.get(server.url)).content == b""
    assert server.accepted == 1


async def test_interim_answers_are_passed_over(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await connection.respond()

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        response = await client.post(server.url, content=b"abc", headers={"Expect": "100-continue"})
    assert (response.status_code, response.text) == (200, "ok")
    assert server.bodies() == [b"abc"]


async def test_chunks_arrive_as_one_body(subject: Subject, nursery: trio.Nursery) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\n"
    server = await RawServer(sends(chunked, then="wait")).start(nursery)
    async with subject.client() as client:
        assert (await client.get(server.url)).text == "hello world"


async def test_a_body_may_end_with_the_connection(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(sends(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")).start(nursery)
    async with subject.client() as client:
        for _ in range(2):
            response = await client.get(server.url)
            assert (response.text, response.http_version) == ("until the end", "HTTP/1.0")
    assert server.accepted == 2


async def test_large_headers_pass_both_ways(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        request = await connection.request()
        assert request is not None
        await connection.respond(headers=[("X-Large", request.headers["x-large"])])

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        response = await client.get(server.url, headers={"X-Large": "x" * 60_000})
    assert len(response.headers["X-Large"]) == 60_000


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
async def test_compressed_bodies_are_unpacked(subject: Subject, site: str, kind: str) -> None:
    async with subject.client() as client:
        response = await client.get(f"{site}/compressed/{kind}")
        assert response.content == b"x" * 10_000
        async with client.stream("GET", f"{site}/compressed/{kind}") as response:
            assert sum([len(raw) async for raw in response.aiter_raw()]) < 1000
            assert response.num_bytes_downloaded < 1000


async def test_base_url_params_and_json(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site, params={"a": "1"}, headers={"X-All": "yes"}) as client:
        seen = (await client.post("/echo", params={"b": "2"}, json={"c": 3})).json()
    assert seen["query"] == "a=1&b=2"
    assert seen["headers"]["x-all"] == "yes"
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["body"].replace(" ", "") == '{"c":3}'


async def test_forms_and_files_are_encoded(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site) as client:
        form = (await client.post("/form", data={"a": "1", "b": "2"})).json()
        assert form == {"type": "application/x-www-form-urlencoded", "body": "a=1&b=2"}
        parts = (await client.post("/form", data={"a": "1"}, files={"f": ("n.txt", b"file body")})).json()
    assert parts["type"] == "multipart/form-data"
    assert 'filename="n.txt"' in parts["body"]
    assert "file body" in parts["body"]


async def test_target_extension_overrides_the_target(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client() as client:
        await client.request("OPTIONS", server.url, extensions={"target": b"*"})
    assert server.received[0].target == "*"


# Redirects, authentication, cookies, hooks


async def test_redirects_are_followed_only_if_asked(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site) as client:
        response = await client.get("/redirect/3")
        assert response.status_code == 302
        assert response.next_request is not None
        response = await client.get("/redirect/3", follow_redirects=True)
        assert response.status_code == 200
        assert [past.status_code for past in response.history] == [302, 302, 302]
        with pytest.raises(subject.lib.TooManyRedirects):
            await client.get("/redirect/25", follow_redirects=True)


@pytest.mark.parametrize(("status", "method", "body"), [(303, "GET", ""), (302, "GET", ""), (307, "POST", "body")])
async def test_a_redirected_post_changes_as_its_status_says(
    subject: Subject, site: str, status: int, method: str, body: str
) -> None:
    async with subject.client(base_url=site, follow_redirects=True) as client:
        seen = (await client.post(f"/redirect-to?url=/echo&status={status}", content=b"body")).json()
    assert (seen["method"], seen["body"]) == (method, body)


async def test_authorization_stays_with_its_origin(subject: Subject, site: str, nursery: trio.Nursery) -> None:
    other = await RawServer().start(nursery)
    async with subject.client(base_url=site, follow_redirects=True) as client:
        await client.get(f"/redirect-to?url={other.url}/", headers={"Authorization": "secret"})
    assert "authorization" not in other.received[0].headers


async def test_basic_and_digest_authentication(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site) as client:
        assert (await client.get("/basic")).status_code == 401
        assert (await client.get("/basic", auth=("user", "pass"))).text == "welcome"
        for _ in range(2):
            response = await client.get("/digest", auth=subject.lib.DigestAuth("user", "pass"))
            assert response.text == "welcome"
            assert [past.status_code for past in response.history] == [401]
        assert (await client.get("/digest", auth=subject.lib.DigestAuth("user", "wrong"))).status_code == 401


async def test_an_auth_flow_may_read_the_answer(subject: Subject, site: str) -> None:
    class Token(subject.lib.Auth):  # type: ignore[misc, name-defined]
        requires_response_body = True

        def auth_flow(self, request: Any) -> Iterator[Any]:
            token = yield subject.lib.Request("GET", f"{site}/hello")
            request.headers["X-Token"] = token.text
            yield request

    async with subject.client(auth=Token()) as client:
        seen = (await client.post(f"{site}/echo", content=b"body")).json()
    assert seen["headers"]["x-token"] == "hello"
    assert seen["body"] == "body"


async def test_cookies_are_kept_and_sent(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site, cookies={"mine": "1"}) as client:
        response = await client.get("/cookies/set?flavour=oat", follow_redirects=True)
        assert response.json() == {"mine": "1", "flavour": "oat"}
        assert client.cookies["flavour"] == "oat"
        assert (await client.get("/cookies")).json() == {"mine": "1", "flavour": "oat"}


async def test_event_hooks_see_requests_and_responses(subject: Subject, site: str) -> None:
    seen: list[str] = []

    async def on_request(request: Any) -> None:
        seen.append(f"{request.method} {request.url.path}")

    async def on_response(response: Any) -> None:
        await response.aread()
        seen.append(f"{response.status_code} {response.text}")

    async with subject.client(event_hooks={"request": [on_request], "response": [on_response]}) as client:
        await client.get(f"{site}/hello")
    assert seen == ["GET /hello", "200 hello"]


async def test_a_hook_that_raises_gives_the_connection_back(subject: Subject, site: str) -> None:
    async def on_response(response: Any) -> None:
        response.raise_for_status()

    limits = subject.lib.Limits(max_connections=1)
    async with subject.client(event_hooks={"response": [on_response]}, limits=limits) as client:
        for _ in range(3):
            with pytest.raises(subject.lib.HTTPStatusError):
                await client.get(f"{site}/status/500")


# Streaming


async def test_a_body_is_streamed_down(subject: Subject, site: str) -> None:
    async with subject.client(base_url=site) as client:
        async with client.stream("GET", "/stream/50") as response:
            assert not response.is_closed
            body = b"".join([piece async for piece in response.aiter_bytes()])
            assert response.is_closed
        assert body == (await client.get("/stream/50")).content
        async with client.stream("GET", "/stream/2") as response:
            assert [line async for line in response.aiter_lines()] == ["0000"] * 200 + ["0001"] * 200
        with pytest.raises(subject.lib.StreamConsumed):
            async for _ in response.aiter_raw():
                pass


@LEFT_BEHIND
async def test_a_stream_broken_off_gives_its_place_back_at_once(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
        await connection.gone()

    server = await RawServer(script).start(nursery)
    async with subject.client(limits=subject.lib.Limits(max_connections=1)) as client:
        for _ in range(3):
            async with client.stream("GET", server.url) as response:
                async for piece in response.aiter_raw():
                    assert piece == b"some"
                    break
        await server.wait(lambda server: server.open == 0)
    assert server.accepted == 3


async def test_a_send_with_stream_is_closed_by_hand(subject: Subject, site: str) -> None:
    async with subject.client() as client:
        response = await client.send(client.build_request("GET", f"{site}/stream/5"), stream=True)
        assert len(await response.aread()) == 5000
        await response.aclose()
        await response.aclose()


async def test_a_body_is_streamed_up_in_chunks(subject: Subject, site: str) -> None:
    pieces = [bytes([number]) * 10_000 for number in range(40)]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with subject.client() as client:
        seen = (await client.post(f"{site}/upload", content=body())).json()
        assert seen == {"size": 400_000, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest(), "encoding": "chunked"}
        seen = (await client.post(f"{site}/upload", content=b"".join(pieces))).json()
        assert seen["encoding"] is None
        assert seen["size"] == 400_000


async def test_an_error_of_the_request_body_comes_out_as_it_is(subject: Subject, site: str) -> None:
    error = LookupError("the file is gone")

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    async with subject.client(limits=subject.lib.Limits(max_connections=1)) as client:
        for _ in range(2):
            with pytest.raises(LookupError) as caught:
                await client.post(f"{site}/upload", content=body())
            assert caught.value is error
        assert (await client.get(f"{site}/hello")).text == "hello"


async def test_a_refusal_before_the_upload_has_ended_is_an_answer(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.respond(b"too large", status="413 Content Too Large", headers=[("Connection", "close")])
        with trio.move_on_after(0.05):
            await connection.gone()

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        response = await client.post(server.url, content=b"x" * 3_000_000)
    assert (response.status_code, response.text) == (413, "too large")


# Connections


async def test_a_connection_is_used_again(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client() as client:
        for _ in range(5):
            await client.get(server.url)
    assert server.accepted == 1
    assert [received.number for received in server.received] == [1, 2, 3, 4, 5]


async def test_connection_close_is_obeyed(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.respond(headers=[("Connection", "close")])
        await connection.gone()

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        for _ in range(3):
            assert (await client.get(server.url)).text == "ok"
            await server.wait(lambda server: server.open == 0)
    assert server.accepted == 3


@pytest.mark.parametrize("subject", _subjects("pool", "resilient-pool"), indirect=True)
async def test_surplus_bytes_after_an_answer_are_no_answer(subject: Subject, nursery: trio.Nursery) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server = await RawServer(sends(smuggled, then="wait")).start(nursery)
    async with subject.client() as client:
        for _ in range(3):
            assert (await client.get(server.url)).text == "good"  # the library's own transport takes the evil one


async def test_many_tasks_share_a_client(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    texts: list[str] = []
    async with subject.client(limits=subject.lib.Limits(max_connections=5)) as client:

        async def get(number: int) -> None:
            texts.append((await client.get(f"{server.url}/{number}")).text)

        async with trio.open_nursery() as tasks:
            for number in range(40):
                tasks.start_soon(get, number)
    assert sorted(texts) == sorted(f"GET /{number} " for number in range(40))
    assert server.most_open <= 5


async def test_no_connection_is_kept_if_none_may_be_idle(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client(limits=subject.lib.Limits(max_keepalive_connections=0)) as client:
        for _ in range(3):
            await client.get(server.url)
            await server.wait(lambda server: server.open == 0)
    assert server.accepted == 3


async def test_an_idle_connection_expires(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client(limits=subject.lib.Limits(keepalive_expiry=0.02)) as client:
        await client.get(server.url)
        await trio.sleep(0.04)
        await client.get(server.url)
    assert server.accepted == 2


async def test_only_so_many_connections_stay_idle(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client(limits=subject.lib.Limits(max_connections=10, max_keepalive_connections=2)) as client:
        async with trio.open_nursery() as tasks:
            for _ in range(10):
                tasks.start_soon(client.get, server.url)
        await client.get(server.url)
        await server.wait(lambda server: server.open <= 2)


async def test_leaving_the_client_closes_its_connections(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client() as client:
        await client.get(server.url)
        assert server.open == 1
    await server.wait(lambda server: server.open == 0)
    with pytest.raises(RuntimeError):
        await client.get(server.url)


async def test_a_transport_needs_no_client(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.transport() as transport:
        request = subject.lib.Request("GET", server.url, headers={"X": "1"})
        response = await transport.handle_async_request(request)
        assert await response.aread() == b"GET / "
        await response.aclose()
    await server.wait(lambda server: server.open == 0)


async def test_a_client_that_is_closed_by_hand_closes_its_connections(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    client = subject.lib.AsyncClient(transport=subject.transport(), trust_env=False)
    await client.get(server.url)
    await client.aclose()
    await server.wait(lambda server: server.open == 0)


async def test_a_unix_socket_serves(subject: Subject, nursery: trio.Nursery, tmp_path: Path) -> None:
    server = await RawServer(unix=str(tmp_path / "s")).start(nursery)
    async with subject.client(uds=str(tmp_path / "s")) as client:
        assert (await client.get("http://somewhere/path")).text == "GET /path "
    assert server.received[0].headers["host"] == "somewhere"


async def test_local_address_and_socket_options_are_used(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    async with (
        subject.client(local_address="127.0.0.1", socket_options=options) as client,
        client.stream("GET", server.url) as response,
    ):
        sock = response.extensions["network_stream"].get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockname()[0] == "127.0.0.1"


async def test_a_literal_ipv6_address_is_dialled(subject: Subject, nursery: trio.Nursery) -> None:
    try:
        server = await RawServer(host="::1").start(nursery)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with subject.client() as client:
        assert (await client.get(f"http://[::1]:{server.port}/")).status_code == 200


# TLS


async def test_a_certificate_of_nobody_is_refused(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client(verify=ssl.create_default_context()) as client:
        with pytest.raises(subject.lib.ConnectError) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url
    async with subject.client(verify=False) as client:
        assert (await client.get(server.url)).status_code == 200


async def test_a_certificate_for_another_name_is_refused(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client() as client:
        with pytest.raises(subject.lib.ConnectError):
            await client.get(server.url, extensions={"sni_hostname": "wrong.example"})
        response = await client.get(server.url, extensions={"sni_hostname": "other.example"})
        assert response.status_code == 200


async def test_sni_hostname_is_what_the_server_sees(subject: Subject, nursery: trio.Nursery) -> None:
    names: list[str | None] = []
    context = subject.authority.server_context()
    context.sni_callback = lambda tls, name, context: names.append(name)
    server = await RawServer(tls=context).start(nursery)
    async with subject.client() as client:
        await client.get(
            f"https://127.0.0.1:{server.port}/",
            headers={"Host": "other.example"},
            extensions={"sni_hostname": "other.example"},
        )
    assert names == ["other.example"]


# HTTP/2


async def test_http2_is_agreed_on_by_alpn(subject: Subject, nursery: trio.Nursery) -> None:
    site = await start_hypercorn(SITE, nursery, authority=subject.authority)
    async with subject.client(http2=True) as client:
        response = await client.post(f"{site}/echo", content=b"body")
        assert response.http_version == "HTTP/2"
        assert response.extensions["http_version"] == b"HTTP/2"
        assert response.extensions["stream_id"] == 1
        assert response.json()["body"] == "body"
        assert len((await client.get(f"{site}/stream/200")).content) == 200_000
    async with subject.client() as client:
        assert (await client.get(f"{site}/hello")).http_version == "HTTP/1.1"


async def test_http2_by_prior_knowledge(subject: Subject, nursery: trio.Nursery) -> None:
    server = await H2Server().start(nursery)
    async with subject.client(http1=False, http2=True) as client:
        assert (await client.get(f"{server.url}/a")).text == "GET /a "


async def test_http2_requests_share_a_connection(subject: Subject, nursery: trio.Nursery) -> None:
    together = trio.Event()

    async def script(stream: Stream) -> None:
        if len(server.received) >= 6:
            together.set()
        await together.wait()
        await stream.respond()

    server = await H2Server(script, tls=subject.authority.server_context("h2")).start(nursery)
    async with subject.client(http2=True) as client:
        server.script = lambda stream: stream.respond()
        await client.get(server.url)
        server.script = script
        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(client.get, server.url)
    assert server.accepted == 1
    assert server.most_streams == 5


async def test_http2_reset_is_a_remote_protocol_error(subject: Subject, nursery: trio.Nursery) -> None:
    server = await H2Server(lambda stream: stream.reset(), tls=subject.authority.server_context("h2")).start(nursery)
    async with subject.client(http2=True) as client:
        with pytest.raises(subject.lib.RemoteProtocolError) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url


async def test_http2_uploads_more_than_a_window(subject: Subject, nursery: trio.Nursery) -> None:
    site = await start_hypercorn(SITE, nursery, authority=subject.authority)
    async with subject.client(http2=True) as client:
        seen = (await client.post(f"{site}/upload", content=b"x" * 300_000)).json()
    assert seen["size"] == 300_000


# Time-outs


async def test_connect_timeout(subject: Subject) -> None:
    with BlackHole() as hole:
        async with subject.client(timeout=subject.lib.Timeout(None, connect=0.05)) as client:
            with pytest.raises(subject.lib.ConnectTimeout) as caught:
                await client.get(hole.url)
    assert caught.value.request.url == hole.url


async def test_connect_timeout_covers_the_handshake(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(silent).start(nursery)
    async with subject.client(timeout=subject.lib.Timeout(None, connect=0.05)) as client:
        with pytest.raises(subject.lib.ConnectTimeout):
            await client.get(f"https://localhost:{server.port}")
    await server.wait(lambda server: server.open == 0)


async def test_read_timeout_before_the_head(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(silent).start(nursery)
    async with subject.client(timeout=subject.lib.Timeout(None, read=0.05)) as client:
        with pytest.raises(subject.lib.ReadTimeout) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url
    await server.wait(lambda server: server.open == 0)


async def test_read_timeout_in_the_body(subject: Subject, nursery: trio.Nursery) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    server = await RawServer(sends(half, then="wait")).start(nursery)
    async with subject.client(timeout=subject.lib.Timeout(None, read=0.05)) as client:
        async with client.stream("GET", server.url) as response:
            with pytest.raises(subject.lib.ReadTimeout) as caught:
                await response.aread()
        assert caught.value.request.url == server.url
    await server.wait(lambda server: server.open == 0)


@LEFT_BEHIND
async def test_write_timeout(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.head()
        await trio.sleep_forever()

    server = await RawServer(script).start(nursery)
    async with subject.client(timeout=subject.lib.Timeout(None, write=0.05)) as client:
        with pytest.raises(subject.lib.WriteTimeout) as caught:
            await client.post(server.url, content=b"x" * 20_000_000)
    assert caught.value.request.url == server.url


async def test_pool_timeout(subject: Subject, nursery: trio.Nursery) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    server = await RawServer(sends(half, then="wait")).start(nursery)
    limits = subject.lib.Limits(max_connections=1)
    async with subject.client(limits=limits, timeout=subject.lib.Timeout(None, pool=0.05)) as client:
        async with client.stream("GET", server.url):
            with pytest.raises(subject.lib.PoolTimeout) as caught:
                await client.get(server.url)
        assert caught.value.request.url == server.url
    assert server.accepted == 1


# Errors


async def test_a_refused_connection_is_a_connect_error(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    await server.stop()
    async with subject.client() as client:
        with pytest.raises(subject.lib.ConnectError) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url


async def test_an_unknown_host_is_a_connect_error(subject: Subject) -> None:
    async with subject.client() as client:
        with pytest.raises(subject.lib.ConnectError):
            await client.get("http://nobody.invalid/")


@pytest.mark.parametrize(("by", "error"), [("fin", "RemoteProtocolError"), ("rst", "ReadError")])
async def test_a_connection_that_ends_instead_of_an_answer(
    subject: Subject, nursery: trio.Nursery, by: str, error: str
) -> None:
    server = await RawServer(close_on_request(1, by=by)).start(nursery)
    async with subject.client() as client:
        with pytest.raises(getattr(subject.lib, error)) as caught:
            await client.post(server.url, content=b"once")
    assert caught.value.request.url == server.url
    assert server.bodies() == [b"once"]


@pytest.mark.parametrize(("by", "error"), [("fin", "RemoteProtocolError"), ("rst", "ReadError")])
async def test_a_body_that_breaks_off(subject: Subject, nursery: trio.Nursery, by: str, error: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await has_head.wait()
        connection.reset() if by == "rst" else connection.fin()

    has_head = trio.Event()
    server = await RawServer(script).start(nursery)
    async with subject.client() as client, client.stream("GET", server.url) as response:
        has_head.set()
        with pytest.raises(getattr(subject.lib, error)) as caught:
            await response.aread()
    assert caught.value.request.url == server.url


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 20",
    ],
    ids=["garbage", "bad-length", "oversized", "truncated"],
)
async def test_what_is_no_answer_is_a_remote_protocol_error(
    subject: Subject, nursery: trio.Nursery, data: bytes
) -> None:
    server = await RawServer(sends(data)).start(nursery)
    async with subject.client() as client:
        with pytest.raises(subject.lib.RemoteProtocolError) as caught:
            await client.get(server.url)
    assert caught.value.request.url == server.url
    await server.wait(lambda server: server.open == 0)


async def test_what_cannot_be_sent_is_a_local_protocol_error(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer().start(nursery)
    async with subject.client(limits=subject.lib.Limits(max_connections=1)) as client:
        for _ in range(2):
            with pytest.raises(subject.lib.LocalProtocolError) as caught:
                await client.get(server.url, headers={"X": "a\nb"})
            assert caught.value.request.url == server.url
        assert (await client.get(server.url)).status_code == 200
    assert len(server.received) == 1


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "//127.0.0.1/", "http://"])
async def test_an_unknown_protocol_is_unsupported(subject: Subject, url: str) -> None:
    async with subject.client() as client:
        with pytest.raises(subject.lib.UnsupportedProtocol):
            await client.get(url)


async def test_every_error_of_the_transport_is_an_http_error(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(close_on_request(1)).start(nursery)
    async with subject.client() as client:
        with pytest.raises(subject.lib.HTTPError):
            await client.get(server.url)


# Proxies


async def test_a_proxy_forwards_and_tunnels(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await ForwardProxy().start(nursery)
    plain = await RawServer().start(nursery)
    secret = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client(proxy=proxy.url) as client:
        assert (await client.get(f"{plain.url}/a")).text == "GET /a "
        for _ in range(2):
            assert (await client.get(f"{secret.url}/b")).text == "GET /b "
    assert proxy.asked == [f"GET {plain.url}/a", f"CONNECT localhost:{secret.port}"]


async def test_a_proxy_wants_to_know_who(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await ForwardProxy(auth=("user", "pass")).start(nursery)
    plain = await RawServer().start(nursery)
    secret = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client(proxy=subject.lib.Proxy(proxy.url, auth=("user", "pass"))) as client:
        assert (await client.get(plain.url)).status_code == 200
        assert (await client.get(secret.url)).status_code == 200
    async with subject.client(proxy=proxy.url) as client:
        assert (await client.get(plain.url)).status_code == 407
        with pytest.raises(subject.lib.ProxyError):
            await client.get(secret.url)


async def test_a_tunnel_refused_is_a_proxy_error(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await ForwardProxy(refuse="502 Bad Gateway").start(nursery)
    async with subject.client(proxy=proxy.url) as client:
        with pytest.raises(subject.lib.ProxyError, match="502") as caught:
            await client.get("https://localhost:1/")
    assert caught.value.request.url == "https://localhost:1/"


async def test_http2_through_a_tunnel(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await ForwardProxy().start(nursery)
    server = await H2Server(tls=subject.authority.server_context("h2")).start(nursery)
    async with subject.client(proxy=proxy.url, http2=True) as client:
        for _ in range(2):
            assert (await client.get(server.url)).http_version == "HTTP/2"
    assert len(proxy.asked) == 1


async def test_a_socks_proxy_serves(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await SocksProxy(auth=("user", "pass")).start(nursery)
    plain = await RawServer().start(nursery)
    secret = await RawServer(tls=subject.authority.server_context()).start(nursery)
    async with subject.client(proxy=subject.lib.Proxy(proxy.url, auth=("user", "pass"))) as client:
        assert (await client.get(plain.url)).status_code == 200
        assert (await client.get(secret.url)).status_code == 200
    assert proxy.asked == [f"SOCKS 127.0.0.1:{plain.port}", f"SOCKS localhost:{secret.port}"]


async def test_a_socks_proxy_that_refuses_is_a_proxy_error(subject: Subject, nursery: trio.Nursery) -> None:
    proxy = await SocksProxy(auth=("user", "pass")).start(nursery)
    async with subject.client(proxy=subject.lib.Proxy(proxy.url, auth=("user", "wrong"))) as client:
        with pytest.raises(subject.lib.ProxyError):
            await client.get("http://127.0.0.1:1/")


# Below the client


async def test_trace_follows_a_request(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(tls=subject.authority.server_context()).start(nursery)
    seen: list[str] = []

    async def trace(name: str, info: Any) -> None:
        seen.append(name)

    async with subject.client() as client:
        await client.get(server.url, extensions={"trace": trace})
    for name in [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "connection.start_tls.started",
        "connection.start_tls.complete",
        "http11.send_request_headers.started",
        "http11.send_request_body.complete",
        "http11.receive_response_headers.started",
        "http11.receive_response_headers.complete",
        "http11.receive_response_body.complete",
        "http11.response_closed.complete",
    ]:
        assert name in seen, (name, seen)


async def test_an_upgrade_hands_the_stream_over(subject: Subject, nursery: trio.Nursery) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst")
        while data := await connection.receive():
            await connection.send(data.upper())

    server = await RawServer(script).start(nursery)
    async with subject.client() as client:
        headers = {"Connection": "Upgrade", "Upgrade": "echo"}
        async with client.stream("GET", server.url, headers=headers) as response:
            assert response.status_code == 101
            stream = response.extensions["network_stream"]
            assert await stream.read(100) == b"first"
            await stream.write(b"hello")
            assert await stream.read(100) == b"HELLO"
        await server.wait(lambda server: server.open == 0)


async def test_a_cancelled_request_leaves_the_client_whole(subject: Subject, nursery: trio.Nursery) -> None:
    server = await RawServer(silent).start(nursery)
    async with subject.client(limits=subject.lib.Limits(max_connections=1)) as client:
        for number in range(3):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(client.get, server.url)
                    await server.wait(lambda server, n=number: server.accepted > n)  # type: ignore[misc]
                    scope.cancel()
            await server.wait(lambda server: server.open == 0)
