"""Who may ask the page for something: the page itself, and no other site of the same browser."""

import ipaddress
from urllib.parse import urlsplit

LONGEST_PATH = 300  # letters; what follows the question mark does not count
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' "
    "'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # addresses hold the secret name of a session
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
NOT_OURS = "this page answers itself alone: ask for it by its address, or start it with --names"


class Guard:
    """Lets through what our own page asks for alone, and adds HEADERS.

    Other sites that are open in the same browser can send requests here, too. What they send names
    their own origin; and where a name of theirs is made to lead to this machine, it is that name.

    Args:
        app: what answers, an ASGI application.
        names: of this host that are good, besides any address in figures.
        told: makes an answer of {"error": sentence} and a status.
    """

    def __init__(self, app, names, told):
        self.app, self.names, self.told = app, {name.casefold() for name in names}, told

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self.is_own(sent.get(b"host", ""), sent.get(b"origin")):
            await self.told({"error": NOT_OURS}, 403)(scope, receive, send)
            return
        if len(scope["path"]) > LONGEST_PATH:  # longer numbers are none to Python
            await self.told({"error": "there is no such page"}, 404)(scope, receive, send)
            return

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in own
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def is_own(self, host, origin):
        """Whether a request is for this page and, where it tells its origin, from it."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if origin is not None and urlsplit(origin).netloc != host:
                return False
        except ValueError:  # brackets that do not close
            return False
        return name in self.names or is_address(name)


def is_address(host):
    """Whether a host is an address in figures; no site can make one lead elsewhere."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_local(host):
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
