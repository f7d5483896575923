"""Who may ask the server for something: its own page, and no other site in the same browser."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

# The types of ASGI (https://asgi.readthedocs.io/en/latest/specs/main.html).
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

LONGEST_PATH = 300  # characters, without the query
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' "
    "'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # URLs hold the secret name of a session
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
REFUSED = (
    "this server answers only its own page: open it by the server's IP address, or start the "
    "server with --names NAME"
)


class Guard:
    """ASGI middleware that lets only requests of our own page through, and adds HEADERS.

    Other sites that are open in the same browser can send requests here as well. Their requests
    name their own origin. If a site points its host name at this machine (DNS rebinding), the
    requests name that host.

    Args:
        app: the ASGI application behind the guard.
        names: host names of this server that are allowed. IP addresses always are.
        json_answer: makes an answer of {"error": sentence} and a status.
    """

    def __init__(
        self,
        app: AsgiApp,
        names: Iterable[str],
        json_answer: Callable[[dict[str, str], int], AsgiApp],
    ) -> None:
        self.app, self.json_answer = app, json_answer
        self.names = {name.casefold() for name in names}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self.is_own(sent.get(b"host", ""), sent.get(b"origin")):
            await self.json_answer({"error": REFUSED}, 403)(scope, receive, send)
            return
        if len(scope["path"]) > LONGEST_PATH:  # Python refuses to convert very long numbers
            await self.json_answer({"error": "not found"}, 404)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in own
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def is_own(self, host: str, origin: str | None) -> bool:
        """Whether a request is for this server and, where it names its origin, from our page."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if origin is not None and urlsplit(origin).netloc != host:
                return False
        except ValueError:  # unbalanced brackets
            return False
        return name in self.names or is_ip_address(name)


def is_ip_address(host: str) -> bool:
    """Whether a host is an IP address, which no site can redirect."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
