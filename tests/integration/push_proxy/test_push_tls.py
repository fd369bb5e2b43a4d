"""TLS of a listener, over real sockets and with certificates made here; what cannot be used is named at the start."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop

from contract.errors import InvalidRequest
from contract.runtime.tls import server_context
from push_proxy.settings import PushSettings

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
Make = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def make_certificate(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """(certificate, key) of localhost, self-signed."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str, *protect: str) -> tuple[Path, Path]:
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        if not cert.exists():
            subprocess.run(
                [
                    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                    *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
                    *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *(protect or ("-nodes",))),
                ],
                check=True,
                capture_output=True,
            )
        return cert, key

    return make


class Greeter(asyncio.Protocol):
    """Hands its transport over after the first bytes, as the listener does once a request is judged."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's TLS transport is one in all but name

    def data_received(self, data: bytes) -> None:
        successor = Echo(self.transport)
        self.transport.set_protocol(successor)
        self.transport.write(b"hello " + data)


class Echo(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def _talk(context: ssl.SSLContext, cert: Path) -> tuple[bytes, bytes, str | None, str | None]:
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context(cafile=cert)
    client.set_alpn_protocols(["http/1.1"])
    try:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
            writer.write(b"you")
            first = await reader.readexactly(9)
            writer.write(b"again")
            second = await reader.readexactly(5)
            spoken = writer.get_extra_info("ssl_object")
            writer.close()
            await writer.wait_closed()
        return first, second, spoken.version(), spoken.selected_alpn_protocol()
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("one_file", [False, True], ids=["two files", "one file"])
def test_a_client_that_trusts_the_certificate_speaks_tls_1_3(
    make_certificate: Make, tmp_path: Path, loop_of: Callable[[], asyncio.AbstractEventLoop], one_file: bool
) -> None:
    """Handshake, bytes both ways, the protocol replaced in between; key apart or in the certificate's file."""
    cert, key = make_certificate("good")
    if one_file:
        both = tmp_path / "both.pem"
        both.write_bytes(key.read_bytes() + cert.read_bytes())
        context = server_context(both, None)
    else:
        context = server_context(cert, key)
    with asyncio.Runner(loop_factory=loop_of) as runner:
        assert runner.run(_talk(context, cert)) == (b"hello you", b"again", "TLSv1.3", "http/1.1")


async def test_old_versions_and_strangers_are_refused(make_certificate: Make) -> None:
    """TLS 1.1 finds no common version; a client that trusts somebody else hangs up. The next good one is served."""
    cert, key = make_certificate("good")
    other, _ = make_certificate("other")
    context = server_context(cert, key)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    with pytest.raises(ssl.SSLCertVerificationError):
        await _talk(context, other)
    assert (await _talk(context, cert))[0] == b"hello you"


@pytest.mark.parametrize(
    ("cert_name", "key_name", "field", "said"),
    [
        ("good.pem", "other.key", "PUSH_TLS_KEY_FILE", "is not the key of"),
        ("good.pem", "locked.key", "PUSH_TLS_KEY_FILE", "encrypted key"),
        ("good.pem", None, "PUSH_TLS_CERT_FILE", "no private key"),
        ("good.pem", "junk", "PUSH_TLS_KEY_FILE", "no private key"),
        ("junk", "good.key", "PUSH_TLS_CERT_FILE", "no certificate"),
        ("good.key", "good.pem", "PUSH_TLS_CERT_FILE", "no certificate"),
        ("nowhere", "good.key", "PUSH_TLS_CERT_FILE", "No such file"),
        ("good.pem", "nowhere", "PUSH_TLS_KEY_FILE", "No such file"),
        (".", None, "PUSH_TLS_CERT_FILE", "Is a directory"),
        ("torn.pem", "good.key", "PUSH_TLS_CERT_FILE", "torn.pem"),
    ],
)
def test_wrong_files_are_named(
    make_certificate: Make, cert_name: str, key_name: str | None, field: str, said: str
) -> None:
    """Each mistake says which setting and which file, and never asks the terminal for a password."""
    good, _ = make_certificate("good")
    make_certificate("other")
    make_certificate("locked", "-passout", "pass:secret")
    (good.parent / "junk").write_text("not PEM")
    (good.parent / "torn.pem").write_bytes(good.read_bytes()[:200])
    with pytest.raises(InvalidRequest, match=said) as wrong:
        server_context(
            good.parent / cert_name,
            good.parent / key_name if key_name else None,
            cert_field="PUSH_TLS_CERT_FILE",
            key_field="PUSH_TLS_KEY_FILE",
        )
    assert wrong.value.field == field
    assert "secret" not in str(wrong.value)


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    """Settings alone are enough to see it."""
    with pytest.raises(ValueError, match="tls_key_file needs tls_cert_file"):
        PushSettings(tls_key_file=tmp_path / "key.pem")
