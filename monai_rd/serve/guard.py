"""Who may ask the server for what: by host name, origin and session; and the headers of each answer.

A page elsewhere, open in the same browser, can send requests to a server on this computer too. It is refused: by a
host name that is not the server's (DNS rebinding), by its `Origin` (cross-site request forgery), and without the
session's cookie, which browsers do not send along with it (`SameSite=Strict`).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_rd.inference.predictor import without_paths
from monai_rd.serve.limits import RefusedError

__all__ = ["Guard", "Sessions", "is_loopback"]

logger = logging.getLogger(__name__)

_SAFE = ("GET", "HEAD")
_OPEN = ("/", "/login", "/page.css", "/page.js")  # what is seen without a token
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",  # images of patients are not to stay in the browser
}


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of this computer, for itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Sessions:
    """Sessions of browsers: a random name and its signature in a cookie, so that none has to be remembered.

    Args:
        port: of the server; browsers send a cookie to all ports of a host.
        token: that a browser has to show for a session; None: every browser gets one.
    """

    def __init__(self, port: int, token: str | None) -> None:
        self.token, self._cookie, self._key = token, f"monai_rd_{port}", secrets.token_bytes(32)

    def of(self, request: Request) -> str:
        """Return the session of a request, "" if it has none."""
        name, _, signature = request.cookies.get(self._cookie, "").partition(".")
        return name if hmac.compare_digest(self._signature(name).encode(), signature.encode()) else ""

    def admits(self, token: str) -> bool:
        """Return whether a token is the right one, in a time that does not tell how much of it is."""
        return self.token is not None and hmac.compare_digest(self.token.encode(), token.encode())

    def new_cookie(self) -> str:
        """Return a `Set-Cookie` header with a new session."""
        name = secrets.token_urlsafe(16)
        return f"{self._cookie}={name}.{self._signature(name)}; Path=/; HttpOnly; SameSite=Strict"

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()


class Guard:
    """An ASGI application around another one, which lets only those requests through that may be answered.

    Args:
        app: the application; `request.state.session` has the session.
        host: to which the server listens.
        sessions: of the server.
    """

    def __init__(self, app: ASGIApp, host: str, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions
        self._alone = is_loopback(host)
        own = [] if self._alone else [host, socket.gethostname(), socket.getfqdn()]
        self._names = {"localhost", *(name.lower() for name in own)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, see ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        session, started = self.sessions.of(request), False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] == 413:  # what is still sent is not read
                    headers["Connection"] = "close"
                if not session and self.sessions.token is None and request.method == "GET":
                    headers.append("Set-Cookie", self.sessions.new_cookie())
            await send(message)

        scope.setdefault("state", {})["session"] = session
        try:
            self._check(request, session)
            await self.app(scope, receive, guarded)
        except RefusedError as error:
            await PlainTextResponse(str(error), error.status)(scope, receive, guarded)
        except Exception as error:  # not to the server's log, whose traceback may quote what was sent
            logger.warning("a request failed with %s", without_paths(error))
            if not started:
                await PlainTextResponse("The program failed. Please report it.", 500)(scope, receive, guarded)

    def _check(self, request: Request, session: str) -> None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise RefusedError("This page is not known by this name. Open the address that the program prints.", 421)
        if request.method not in _SAFE:
            own = f"{request.url.scheme}://{hosts[0]}"
            if request.headers.getlist("origin") != [own]:
                raise RefusedError("This was asked for by another page, and is refused.", 403)
        if not session and self.sessions.token is not None and request.url.path not in _OPEN:
            raise RefusedError("Open the address that the program prints first: it has the token.", 401)

    def _is_own(self, host: str) -> bool:
        name = host.lower().rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host.lower()
        name = name.removeprefix("[").removesuffix("]")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)  # which nobody can have rebound
        except ValueError:
            return False
        return address.is_loopback or not self._alone
