"""`/`: for a person who opened the address in a browser; `/docs/errors`: for one whom an error sent
there; `/ca.pem`: what clients may trust."""

from __future__ import annotations

from html import escape
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.error_kinds import ERROR_KINDS
from quickthaw.gateway.respond import KINDS_PATH

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quickthaw</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --faint: #8883; --link: light-dark(#0b57d0, #8ab4f8) }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 44rem; margin: 0 auto;
    padding: clamp(1.5rem, 6vw, 4rem) 1.25rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
p { margin: 0 0 .8rem }
code, pre { font: .9em/1.55 ui-monospace, monospace }
pre { background: var(--faint); border-radius: 6px; padding: .9rem 1rem; margin: 0 0 .8rem;
    overflow-x: auto }
dl { margin: 0; border-top: 1px solid var(--faint) }
dl div { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .5rem 0;
    border-bottom: 1px solid var(--faint) }
dl div:target { background: var(--faint) }
dt { flex: 0 0 12rem; overflow-wrap: anywhere; font-weight: 600 }
dd { flex: 1 1 17rem; min-width: 0; margin: 0; overflow-wrap: anywhere }
a { color: var(--link) }
a:focus-visible, pre:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
</style>
"""

_PAGE = Template(
    _HEAD
    + """<main>
<h1>Quickthaw</h1>
<p>Serverless inference on your own GPUs. This address is for programs; it works.</p>
<h2>Draw something</h2>
<pre tabindex="0" aria-label="An example call">curl $url/run/quickthaw/shapes \\
  -H "Authorization: Key $$QUICKTHAW_KEY" \\
  -d '{"prompt": "a red circle above a blue square"}'</pre>
<p>An operator makes keys: <code>quickthaw keys create NAME --scope call</code>.</p>
<h2>What answers here</h2>
<dl>
<div><dt>Run</dt><dd><code>POST $url/run/OWNER/NAME</code><br>the output, when it is there; with
    <code>/stream</code> after it, previews on the way</dd></div>
<div><dt>Queue</dt><dd><code>POST $url/queue/OWNER/NAME</code><br>
    a request to ask for later</dd></div>
<div><dt>fal clients</dt><dd><code>quickthaw run-with fal -- python app.py</code></dd></div>
<div><dt>OpenAI clients</dt><dd><code>OPENAI_BASE_URL=$url/openai/v1</code></dd></div>
<div><dt>Replicate clients</dt><dd><code>REPLICATE_BASE_URL=$url/replicate</code></dd></div>
<div><dt>Your models</dt><dd><code>POST $url/v1/deployments</code></dd></div>
</dl>
<h2>To look at</h2>
<dl>
<div><dt>Every route</dt><dd><a href="$url/openapi.json">openapi.json</a></dd></div>
<div><dt>One model</dt><dd><a
    href="$url/api/openapi/queue/openapi.json?endpoint_id=quickthaw/shapes">the schema of
    quickthaw/shapes</a></dd></div>
<div><dt>Health</dt><dd><a href="$url/health/ready">health/ready</a></dd></div>
</dl>
</main>
</html>
"""
)

_KINDS_PAGE = Template(
    _HEAD
    + """<main>
<h1>Kinds of errors</h1>
<p>What is wrong with a model's arguments, or with its run, is a list in <code>detail</code>: each
item has <code>loc</code>, the way to the field, <code>msg</code>, for people, <code>type</code>,
one of these, and perhaps <code>ctx</code> with its limits and <code>input</code>.</p>
<dl>
$kinds
</dl>
<p>Any other error has a text for its <code>detail</code>, and a word in <code>error_type</code> and
in the header <code>X-Fal-Error-Type</code>. All routes are in <a href="$url/openapi.json"
>openapi.json</a>.</p>
</main>
</html>
"""
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


async def home(request: Request) -> Response:
    page = _PAGE.substitute(url=escape(gateway_of(request).public_url))
    return HTMLResponse(page, headers={"content-security-policy": _POLICY})


async def error_kinds(request: Request) -> Response:
    kinds = "\n".join(
        f'<div id="{kind}"><dt><code>{kind}</code></dt><dd>{_marked(text)}</dd></div>'
        for kind, text in ERROR_KINDS.items()
    )
    page = _KINDS_PAGE.substitute(kinds=kinds, url=escape(gateway_of(request).public_url))
    return HTMLResponse(page, headers={"content-security-policy": _POLICY})


def _marked(text: str) -> str:
    """With what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))


async def authority(request: Request) -> Response:
    pem = gateway_of(request).ca_pem
    if not pem:
        raise HTTPException(404)
    return Response(pem, media_type="application/x-pem-file")


ROUTES = [
    Route("/", home, methods=["GET"]),
    Route(KINDS_PATH, error_kinds, methods=["GET"]),
    Route("/ca.pem", authority, methods=["GET"]),
]
