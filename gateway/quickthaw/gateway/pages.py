"""`/`: for a person who opened the address in a browser; `/ca.pem`: what clients may trust."""

from __future__ import annotations

from html import escape
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from quickthaw.gateway.context import gateway_of

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Quickthaw</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }
pre { background: #8881; padding: .8rem; overflow-x: auto }
:root { color-scheme: light dark }
</style>
<h1>Quickthaw</h1>
<p>Serverless inference on your own GPUs. This address answers programs
that speak fal's HTTP API.</p>
<pre>curl $url/run/quickthaw/shapes \\
  -H "Authorization: Key $$QUICKTHAW_KEY" \\
  -d '{"prompt": "a red circle above a blue square"}'</pre>
<ul>
<li><code>POST $url/run/OWNER/NAME</code>: the output, when it is there;
    <code>/stream</code> after it: previews on the way</li>
<li><code>POST $url/queue/OWNER/NAME</code>: a request to ask for later</li>
<li><a href="$url/openapi.json">openapi.json</a>: every route</li>
<li><a href="$url/api/openapi/queue/openapi.json?endpoint_id=quickthaw/shapes">the schema of one
    model</a></li>
<li><a href="$url/health/ready">health</a></li>
</ul>
</html>
""")


async def home(request: Request) -> Response:
    page = _PAGE.substitute(url=escape(gateway_of(request).public_url))
    return HTMLResponse(
        page, headers={"content-security-policy": "default-src 'self' 'unsafe-inline'"}
    )


async def authority(request: Request) -> Response:
    pem = gateway_of(request).ca_pem
    if not pem:
        raise HTTPException(404)
    return Response(pem, media_type="application/x-pem-file")


ROUTES = [Route("/", home, methods=["GET"]), Route("/ca.pem", authority, methods=["GET"])]
