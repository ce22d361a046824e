"""The page and its headers, without a browser."""

import base64
import hashlib
import re

from batch_fn.api.dashboard import headers, page


def test_only_the_pages_own_script_and_style_may_run() -> None:
    policy = dict(each.split(" ", 1) for each in headers()["Content-Security-Policy"].split("; "))
    for tag in ("script", "style"):
        _, _, rest = page().partition(f"<{tag}>")
        digest = hashlib.sha256(rest.partition(f"</{tag}>")[0].encode()).digest()
        assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"


def test_the_page_loads_nothing_and_sets_no_html() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page())
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:)|<script src|@import|url\(| style=| on\w+=\"", page())
