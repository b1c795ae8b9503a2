"""By which names a service may be called, where it listens on loopback alone.

A page from elsewhere may point a name of its own at this machine (DNS rebinding); a browser then takes the service for
that page's own server and lets it read the answers. What gives it away is the name, which stands in the Host header.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit


class Hosts:
    """Names of loopback, and others that are given; ports do not count."""

    def __init__(self, others: Iterable[str] = ()) -> None:
        self._others = {_plain(name) for name in others}

    def accept(self, header: str) -> bool:
        """Say whether a Host header names this machine."""
        try:
            name = _plain(urlsplit(f"//{header}").hostname or "")
        except ValueError:
            return False
        return name in self._others or is_loopback(name)


def is_loopback(name: str) -> bool:
    """Whether a name or an address means this machine wherever it is asked: 127.0.0.0/8, ::1, localhost and below."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _plain(name: str) -> str:
    return name.strip().lower().strip("[]").removesuffix(".")
