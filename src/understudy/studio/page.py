"""The page's own files, read once, and the headers that keep everything else out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

from fastapi import Request, Response

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
# Scripts, styles and connections of this server alone: no script in the page itself, nobody's frame, no form sent away.
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",  # asked for again each time, and answered by 304: a new version shows at once
    }
)


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    content_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """Send it, or say that the browser has it already."""
        headers = {**HEADERS, "ETag": self.etag}
        if request.headers.get("If-None-Match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.content_type, headers=headers)


def page_files() -> dict[str, PageFile]:
    """Read all files by name; no other path leads to a file."""
    found = {}
    for entry in files("understudy.studio").joinpath("static").iterdir():
        kind = CONTENT_TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            content = entry.read_bytes()
            found[entry.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found
