"""The web server, uvicorn: no log of requests, whose addresses would tell who looked at what, and no traceback."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

__all__ = ["listening", "web_server"]

_CONNECTIONS = 200


def web_server(app: ASGIApp) -> uvicorn.Server:
    """Return the server of an application, to be run with a socket of `listening`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: the port is in use, or the host is no address of this computer.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or "it cannot be listened to"
        raise ValueError(
            f"--host {host} --port {port}: {reason}. Give another --port, or --host an address of this computer"
        ) from None
