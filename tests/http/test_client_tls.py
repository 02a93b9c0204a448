"""ClientTLS: what it takes, and what it makes of files that change. Connections are in test_client_tls_connections.py."""

from __future__ import annotations

import os
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests.http._certificates import Pki, chain, encrypted_key
from trioresil._http import _client_tls
from trioresil._http._bound_httpx import ClientTLS
from trioresil.testing import Recorder

RELOADED = trioresil.CertificateReloaded
FAILED = trioresil.CertificateReloadFailed


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path)
    made.install(made.issue("first"))
    return made


def client_tls(pki: Pki, **options: Any) -> ClientTLS:
    return ClientTLS(**{"cert": pki.cert, "key": pki.key, "ca": pki.ca, **options})


# --- construction ----------------------------------------------------------------------------------------------------


def test_it_begins_with_generation_1_of_a_context_that_verifies_servers(pki: Pki) -> None:
    tls = client_tls(pki)
    assert tls.generation == 1
    assert isinstance(tls.context, ssl.SSLContext)
    assert (tls.context.verify_mode, tls.context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(tls.context.get_ca_certs()) == 1


@pytest.mark.parametrize("argument", ["cert", "key", "ca"])
def test_a_missing_file_is_told_by_its_argument_and_path(pki: Pki, tmp_path: Path, argument: str) -> None:
    missing = tmp_path / "nowhere.pem"
    with pytest.raises(FileNotFoundError, match=rf"{argument} can't be read: No such file.*nowhere\.pem"):
        client_tls(pki, **{argument: missing})


@pytest.mark.parametrize("argument", ["cert", "key"])
def test_a_directory_in_the_place_of_a_file_is_told(pki: Pki, tmp_path: Path, argument: str) -> None:
    with pytest.raises(IsADirectoryError, match=f"{argument} can't be read"):
        client_tls(pki, **{argument: tmp_path})


def test_a_key_of_another_certificate_is_refused(pki: Pki) -> None:
    pki.key.write_bytes(pki.issue("other").private_key_pem.bytes())
    with pytest.raises(ValueError, match=r"key='.*tls\.key' doesn't belong to the certificate in cert='.*tls\.crt'"):
        client_tls(pki)


@pytest.mark.parametrize("argument", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\x00\x80"])
def test_what_is_no_pem_is_refused(pki: Pki, argument: str, content: bytes) -> None:
    path: Path = getattr(pki, argument)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{argument} must .*{path.name}"):
        client_tls(pki)


def test_an_encrypted_key_needs_its_password_and_never_asks_the_terminal(pki: Pki) -> None:
    leaf = pki.install(pki.issue("locked"))
    pki.key.write_bytes(encrypted_key(leaf, "sesame"))
    with pytest.raises(ValueError, match=r"key='.*tls\.key' is encrypted: password must be given"):
        client_tls(pki)
    with pytest.raises(ValueError, match=r"password doesn't open key='.*tls\.key'") as caught:
        client_tls(pki, password="wrong")
    assert "wrong" not in str(caught.value)
    for password in ("sesame", b"sesame", lambda: "sesame"):
        assert client_tls(pki, password=password).generation == 1


def test_one_file_may_hold_certificate_and_key(pki: Pki) -> None:
    pki.cert.write_bytes(pki.key.read_bytes() + pki.cert.read_bytes())
    assert ClientTLS(cert=pki.cert, ca=pki.ca).generation == 1
    assert ClientTLS(cert=str(pki.cert), ca=str(pki.ca)).generation == 1


def test_authorities_may_be_given_as_data(pki: Pki) -> None:
    pem = pki.ca.read_bytes()
    for data in (pem, pem.decode(), ssl.PEM_cert_to_DER_cert(pem.decode())):
        assert len(client_tls(pki, ca=data).context.get_ca_certs()) == 1
    with pytest.raises(ValueError, match="ca must hold certificates in PEM form; the data given"):
        client_tls(pki, ca=b"no certificate")


def test_without_ca_the_client_librarys_own_authorities_are_trusted(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca))
    assert [entry["serialNumber"] for entry in client_tls(pki, ca=None).context.get_ca_certs()] == [
        entry["serialNumber"] for entry in client_tls(pki).context.get_ca_certs()
    ]
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert len(client_tls(pki, ca=None).context.get_ca_certs()) > 10


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("cert", 5, TypeError),
        ("cert", "", ValueError),
        ("cert", None, TypeError),
        ("cert", b"tls.crt", TypeError),
        ("key", 5, TypeError),
        ("ca", 5, TypeError),
        ("ca", True, TypeError),
        ("password", 5, TypeError),
        ("reload_interval", 0, ValueError),
        ("reload_interval", -1, ValueError),
        ("reload_interval", float("nan"), ValueError),
        ("reload_interval", True, TypeError),
        ("name", "", ValueError),
        ("name", None, TypeError),
    ],
)
def test_wrong_arguments_are_refused_by_name(pki: Pki, argument: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{argument} must be"):
        client_tls(pki, **{argument: value})


def test_a_password_of_the_wrong_type_is_not_shown(pki: Pki) -> None:
    with pytest.raises(TypeError) as caught:
        client_tls(pki, password=["sesame"])
    assert "sesame" not in str(caught.value)


# --- when it looks ---------------------------------------------------------------------------------------------------


async def test_made_in_a_run_it_is_due_after_the_interval(pki: Pki, mock_clock: MockClock) -> None:
    tls = client_tls(pki, reload_interval=10)
    mock_clock.jump(9.999)
    assert not tls.due()
    mock_clock.jump(0.001)
    assert tls.due()
    await tls.refresh()
    assert not tls.due()
    mock_clock.jump(10)
    assert tls.due()


def test_made_outside_it_is_due_once_at_the_beginning_of_each_run(pki: Pki) -> None:
    tls = client_tls(pki)

    async def main() -> list[bool]:
        due = [tls.due()]
        await tls.refresh()
        return [*due, tls.due()]

    assert [trio.run(main), trio.run(main)] == [[True, False], [True, False]]


async def test_an_infinite_interval_is_never_due_and_can_be_refreshed_by_hand(pki: Pki, mock_clock: MockClock) -> None:
    tls = client_tls(pki, reload_interval=float("inf"))
    mock_clock.jump(1e9)
    assert not tls.due()
    pki.install(pki.issue("second"))
    await tls.refresh()
    assert (tls.generation, tls.due()) == (2, False)


def test_outside_of_a_run_due_says_so_and_the_rest_works(pki: Pki) -> None:
    tls = client_tls(pki)
    with pytest.raises(RuntimeError, match="trioresil runs on Trio"):
        tls.due()
    assert tls.statistics().generation == 1


# --- what it sees ----------------------------------------------------------------------------------------------------


async def test_unchanged_files_change_nothing(pki: Pki) -> None:
    tls, recorder = client_tls(pki), Recorder()
    context = tls.context
    os.utime(pki.cert, ns=(1, 1))  # touched only
    spare = pki.folder / "copy"
    spare.write_bytes(pki.key.read_bytes())
    os.replace(spare, pki.key)  # another inode with the same content
    with trioresil.instrument(recorder):
        await tls.refresh()
    assert (tls.generation, tls.context) == (1, context)
    assert recorder.of(RELOADED) == recorder.of(FAILED) == []


async def test_new_files_make_a_new_context_and_an_event(pki: Pki) -> None:
    tls, recorder = client_tls(pki), Recorder()
    context = tls.context
    pki.install(pki.issue("second"))
    with trioresil.instrument(recorder):
        await tls.refresh()
        await tls.refresh()
    assert tls.generation == 2
    assert tls.context is not context
    [event] = recorder.of(RELOADED)
    assert (event.policy, event.name, event.path) == (tls, "client-tls", str(pki.cert))
    assert recorder.of(FAILED) == []


async def test_a_rewrite_in_place_that_keeps_time_size_and_inode_is_seen(pki: Pki) -> None:
    first, second = pki.issue("aaaaa"), pki.issue("bbbbb")
    combined = [chain(leaf) + leaf.private_key_pem.bytes() for leaf in (first, second)]
    size = max(map(len, combined))
    pki.cert.write_bytes(combined[0].ljust(size, b"\n"))
    before = pki.cert.stat()
    tls = ClientTLS(cert=pki.cert, ca=pki.ca)
    pki.cert.write_bytes(combined[1].ljust(size, b"\n"))
    os.utime(pki.cert, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = pki.cert.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)
    await tls.refresh()
    assert tls.generation == 2


async def test_a_swapped_symbolic_link_as_in_a_kubernetes_secret_is_seen(pki: Pki, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    for version in ("..2026_01", "..2026_02"):
        leaf = pki.issue("pod")
        (mount / version).mkdir(parents=True)
        (mount / version / "tls.crt").write_bytes(chain(leaf))
        (mount / version / "tls.key").write_bytes(leaf.private_key_pem.bytes())
    (mount / "..data").symlink_to("..2026_01")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    tls = client_tls(pki, cert=mount / "tls.crt", key=mount / "tls.key")
    (mount / "..data_tmp").symlink_to("..2026_02")
    os.replace(mount / "..data_tmp", mount / "..data")
    await tls.refresh()
    assert tls.generation == 2
    await tls.refresh()
    assert tls.generation == 2


async def test_a_new_authority_is_seen(pki: Pki) -> None:
    tls = client_tls(pki)
    pki.ca.write_bytes(pki.ca.read_bytes() + trustme.CA().cert_pem.bytes())
    await tls.refresh()
    assert tls.generation == 2
    assert len(tls.context.get_ca_certs()) == 2


async def test_a_directory_of_authorities_is_watched(pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "0a1b2c3d.0").write_bytes(pki.ca.read_bytes())
    tls = client_tls(pki, ca=folder)
    await tls.refresh()
    assert tls.generation == 1
    (folder / "0a1b2c3d.1").write_bytes(trustme.CA().cert_pem.bytes())
    await tls.refresh()
    assert tls.generation == 2


async def test_a_directory_of_authorities_that_is_gone_keeps_the_old(pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "authorities"
    folder.mkdir()
    tls = client_tls(pki, ca=folder)
    folder.rmdir()
    await tls.refresh()
    assert tls.generation == 1
    assert "ca can't be read" in str(tls.statistics().last_error)


async def test_the_working_directory_may_change(pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(pki.folder)
    tls = client_tls(pki, cert="tls.crt", key="tls.key")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await tls.refresh()
    assert tls.statistics().last_error is None


# --- broken files ----------------------------------------------------------------------------------------------------


async def test_half_of_a_pair_keeps_the_old_until_the_other_half_is_there(pki: Pki, mock_clock: MockClock) -> None:
    tls, recorder = client_tls(pki, reload_interval=10), Recorder()
    context, second = tls.context, pki.issue("second")
    pki.cert.write_bytes(chain(second))
    mock_clock.jump(10)
    with trioresil.instrument(recorder):
        await tls.refresh()
        assert (tls.context, tls.generation, tls.due()) == (context, 1, False)
        [event] = recorder.of(FAILED)
        assert (event.policy, event.path) == (tls, str(pki.cert))
        assert isinstance(event.error, ValueError)
        assert "doesn't belong to" in str(event.error)
        assert tls.statistics().last_error is event.error
        assert "can't be used: ValueError" in repr(tls)
        pki.key.write_bytes(second.private_key_pem.bytes())
        mock_clock.jump(10)
        assert tls.due()
        await tls.refresh()
    assert (tls.generation, len(recorder.of(RELOADED)), len(recorder.of(FAILED))) == (2, 1, 1)
    assert tls.context is not context
    assert (tls.statistics().last_error, tls.statistics().failures) == (None, 1)
    assert "can't be used" not in repr(tls)


@pytest.mark.parametrize("argument", ["cert", "key", "ca"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nMII"])
async def test_a_broken_file_keeps_the_old(pki: Pki, argument: str, content: bytes | None) -> None:
    tls, recorder = client_tls(pki), Recorder()
    context = tls.context
    path = trio.Path(getattr(pki, argument))
    whole = await path.read_bytes()
    await (path.unlink() if content is None else path.write_bytes(content))
    with trioresil.instrument(recorder):
        await tls.refresh()
        await tls.refresh()
    assert (tls.context, tls.generation) == (context, 1)
    assert len(recorder.of(FAILED)) == 2  # each look tells, as long as it lasts
    await path.write_bytes(whole)
    await tls.refresh()
    assert (tls.context, tls.generation, tls.statistics().last_error) == (context, 1, None)


async def test_a_password_function_that_raises_is_an_event(pki: Pki) -> None:
    leaf = pki.install(pki.issue("locked"))
    pki.key.write_bytes(encrypted_key(leaf, "sesame"))
    broken = False

    def password() -> str:
        if broken:
            raise LookupError("the vault is sealed")
        return "sesame"

    tls = client_tls(pki, password=password)
    leaf = pki.install(pki.issue("locked2"))
    pki.key.write_bytes(encrypted_key(leaf, "sesame"))
    broken = True
    await tls.refresh()
    assert tls.generation == 1
    assert isinstance(tls.statistics().last_error, LookupError)


def test_files_that_change_while_they_are_read_are_read_again(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = iter([b"\n", b"\n\n"])
    load = ClientTLS._new_context

    def slow(self: ClientTLS) -> ssl.SSLContext:
        context = load(self)
        for change in changes:
            pki.cert.write_bytes(pki.cert.read_bytes() + change)
            break
        return context

    monkeypatch.setattr(ClientTLS, "_new_context", slow)
    assert client_tls(pki)._loaded.fingerprint == client_tls(pki)._fingerprint()
    changes = iter([b"\n"] * _client_tls.READS)
    with pytest.raises(ValueError, match="changed while they were read"):
        client_tls(pki)


async def test_without_an_instrument_a_failure_is_a_warning(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    tls = client_tls(pki, name="bank")
    pki.cert.unlink()
    await tls.refresh()
    [record] = caplog.records
    assert record.name == "trioresil"
    assert record.getMessage().startswith("bank: the new certificate can't be used, the one before stays: FileNotFound")


# --- many tasks, and cancellation ------------------------------------------------------------------------------------


class Gate:
    """Holds the thread that looks until it is opened, and counts the looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        look = ClientTLS._look

        def held(tls: ClientTLS) -> Any:
            self.looks += 1
            found = look(tls)
            self.entered.release()
            assert self.opened.wait(10)
            return found

        monkeypatch.setattr(ClientTLS, "_look", held)


async def test_many_requests_at_once_make_one_look_and_all_wait_for_it(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, tls = Gate(monkeypatch), client_tls(pki)
    pki.install(pki.issue("second"))
    seen: list[int] = []

    async def request() -> None:
        await tls.refresh()
        seen.append(tls.generation)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(request)
            await trio.to_thread.run_sync(gate.entered.acquire)
            await wait_all_tasks_blocked()
            gate.opened.set()
    assert (gate.looks, seen) == (1, [2] * 50)


async def test_a_cancelled_look_changes_nothing_and_is_still_due(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    gate, tls = Gate(monkeypatch), client_tls(pki, reload_interval=10)
    context = tls.context
    pki.install(pki.issue("second"))
    mock_clock.jump(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.refresh)
        await trio.to_thread.run_sync(gate.entered.acquire)
        nursery.cancel_scope.cancel()  # leaves at once, although the thread is held
    assert (tls.context, tls.generation, tls.due()) == (context, 1, True)
    gate.opened.set()
    await tls.refresh()
    assert (tls.generation, tls.due(), gate.looks) == (2, False, 2)


async def test_when_the_looking_task_is_cancelled_one_that_waits_looks(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    gate, tls = Gate(monkeypatch), client_tls(pki, reload_interval=float("inf"))
    pki.install(pki.issue("second"))
    looker = trio.CancelScope()

    async def cancelled() -> None:
        with looker:
            await tls.refresh()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled)
        await trio.to_thread.run_sync(gate.entered.acquire)
        for _ in range(3):
            nursery.start_soon(tls.refresh)
        await wait_all_tasks_blocked()
        looker.cancel()
        await trio.to_thread.run_sync(gate.entered.acquire)
        await wait_all_tasks_blocked()
        gate.opened.set()
    assert (gate.looks, tls.generation) == (2, 2)


async def test_files_that_hang_hold_few_threads_and_none_of_the_programs(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    gate, tls = Gate(monkeypatch), client_tls(pki)
    for _ in range(10):
        with trio.move_on_after(1) as scope:
            await tls.refresh()
        assert scope.cancelled_caught
    for _ in range(_client_tls.THREADS):
        await trio.to_thread.run_sync(gate.entered.acquire)
    assert gate.looks == _client_tls.THREADS
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    gate.opened.set()
    await tls.refresh()


async def test_refresh_is_a_checkpoint(pki: Pki) -> None:
    tls = client_tls(pki)
    with trio.testing.assert_checkpoints():
        await tls.refresh()
    with trio.CancelScope() as scope:
        scope.cancel()
        await tls.refresh()
    assert scope.cancelled_caught


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_repr_and_statistics_tell_when_the_certificate_ends(pki: Pki) -> None:
    leaf = pki.install(pki.issue("short", days=3))
    tls = client_tls(pki, name="bank")
    until = tls.statistics().valid_until
    assert until is not None
    assert abs(until - (datetime.now(UTC) + timedelta(days=3))) < timedelta(minutes=1)
    assert repr(tls) == f"<trioresil.ClientTLS 'bank' {str(pki.cert)!r} until {until:%Y-%m-%d %H:%M} UTC, generation 1>"
    assert b"PRIVATE" in leaf.private_key_pem.bytes()
    assert "PRIVATE" not in repr(tls)
