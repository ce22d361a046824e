"""The dashboard: one static HTML file that asks for the key, and its security headers."""

import base64
import functools
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("dashboard.html")


@functools.cache
def page() -> str:
    """Return the HTML of the page."""
    return PAGE.read_text(encoding="utf-8")


@functools.cache
def headers() -> dict[str, str]:
    """Return the headers of the page: only its own script and style run, and it calls only this app."""
    policy = (
        "default-src 'none'",
        f"script-src {_digest('script')}",
        f"style-src {_digest('style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _digest(tag: str) -> str:
    """Return the CSP source expression of the page's inline element with that tag."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page(), re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
