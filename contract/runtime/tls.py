"""TLS of a listener: a server context from PEM files, or an error that says which file and why."""

from __future__ import annotations

import ssl
from pathlib import Path

from contract.errors import InvalidRequest

__all__ = ["server_context"]


def server_context(
    cert_file: Path, key_file: Path | None, *, cert_field: str = "TLS_CERT_FILE", key_field: str = "TLS_KEY_FILE"
) -> ssl.SSLContext:
    """A context for HTTP/1.1 and WebSocket over TLS 1.2 or newer; without `key_file` the key is in `cert_file`.

    Reads the files, so call it once, at the start. Raises InvalidRequest naming the field at fault: a file that is not
    there or not readable, not PEM, an encrypted key, or a key of another certificate.
    """
    if key_file is None:
        key_field = cert_field
    _holds(cert_file, b"-----BEGIN CERTIFICATE-----", "certificate", cert_field)
    _holds(key_file or cert_file, b"PRIVATE KEY-----", "private key", key_field)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password function OpenSSL would ask the terminal for one.
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except _Encrypted as exc:
        raise InvalidRequest(
            f"{key_file or cert_file} holds an encrypted key", field=key_field, rule="an unencrypted PEM key"
        ) from exc
    except (ssl.SSLError, ValueError) as exc:
        mismatch = getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH"
        what = f"{key_file or cert_file} is not the key of {cert_file}" if mismatch else f"{cert_file}: {exc}"
        raise InvalidRequest(
            what, field=key_field if mismatch else cert_field, rule="a PEM certificate chain and its key"
        ) from exc
    return context


def _holds(path: Path, mark: bytes, what: str, field: str) -> None:
    try:
        found = mark in path.read_bytes()
    except OSError as exc:
        raise InvalidRequest(
            f"{path} cannot be read: {exc.strerror or exc}", field=field, rule="a PEM file this user may read"
        ) from exc
    if not found:
        raise InvalidRequest(f"{path} holds no {what}", field=field, rule="a PEM file")


class _Encrypted(Exception):
    pass


def _no_password() -> bytes:
    raise _Encrypted
