"""The reference of everything callable: reads the OpenAPI document and the catalog, and sends requests as a person."""

import base64
import hashlib
import json
import re
from pathlib import Path

from shared.app.responses import Response
from shared.settings import Settings

# Tables, views and rpcs, by `make schema`.
CATALOG = Path(__file__).parent / "catalog.json"
PAGE = (Path(__file__).parent / "page.html").read_text()


def page(settings: Settings) -> Response:
    """A page that may run its own script, talk to us and to the project, and nothing else."""
    facts = {"url": settings.url, "key": next(iter(settings.publishable_keys.values()), None)}
    html = PAGE.replace("{{facts}}", json.dumps(facts).replace("<", "\\u003c"))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes('script', html)}",
            f"style-src {_hashes('style', html)}",
            f"connect-src 'self' {settings.url}",
            "base-uri 'none'",
            "form-action 'none'",
            "img-src data:",
            "frame-ancestors 'none'",
        ]
    )
    return Response(200, html.encode(), {"content-security-policy": policy}, content_type=b"text/html; charset=utf-8")


def _hashes(tag: str, html: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'" for block in blocks
    )
