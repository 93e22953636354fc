"""`/docs`: the OpenAPI document, to look at and try out. Its scripts come from where FastAPI has them: a CDN."""

import re
from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse

OPENAPI_PATH = "/openapi.json"
_SOURCES = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"
_FAVICON = "https://fastapi.tiangolo.com/img/favicon.png"
_PAGE = get_swagger_ui_html(
    openapi_url=OPENAPI_PATH,
    title="Parley - API",
    swagger_js_url=f"{_SOURCES}swagger-ui-bundle.js",
    swagger_css_url=f"{_SOURCES}swagger-ui.css",
    swagger_favicon_url=_FAVICON,
)

router = APIRouter(include_in_schema=False)


def _content_security_policy(page: bytes) -> str:
    """Names each script within the page by its hash. Swagger UI writes styles into its elements."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {_SOURCES} {hashes}; style-src {_SOURCES} 'unsafe-inline'; "
        f"img-src {_FAVICON} data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_POLICY = _content_security_policy(bytes(_PAGE.body))


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(_PAGE.body, headers={"content-security-policy": _POLICY})
