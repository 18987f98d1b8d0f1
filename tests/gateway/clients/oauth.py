"""An agent that has no credential yet, with the OAuth client of the Python SDK, 1.x or 2.x.

    python oauth.py URL [CLIENT_ID_URL]

It finds the authorization server by the gateway's answers, registers (or names CLIENT_ID_URL), signs in without a
browser, gets a token with PKCE, lists the tools and calls `echo`. Prints the tools and the text that came back.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from urllib.parse import parse_qs, urlsplit

from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata

FIRST = version("mcp").startswith("1.")
CALLBACK = "http://127.0.0.1:9/callback"

if FIRST:
    import httpx
else:
    import httpx2 as httpx
    from mcp.shared.auth import AuthorizationCodeResult


class Memory:
    """What a client would keep on its disk."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Person:
    """Follows the provider's pages, which ask nothing, to the client's callback."""

    answer = None

    async def sign_in(self, url):
        async with httpx.AsyncClient() as browser:
            while not url.startswith(CALLBACK):
                page = await browser.get(url)
                assert page.is_redirect, f"{page.status_code} {page.text}"
                url = str(page.url.join(page.headers["location"]))
        self.answer = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert "code" in self.answer, self.answer

    async def come_back(self):
        if FIRST:
            return self.answer["code"], self.answer.get("state")
        return AuthorizationCodeResult(code=self.answer["code"], state=self.answer.get("state"), iss=self.answer.get("iss"))


async def work(read, write):
    from mcp import ClientSession

    async with ClientSession(read, write) as session:
        await session.initialize()
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        result = await session.call_tool("echo", {"text": "hello"})
        return {"tools": tools, "text": result.content[0].text}


async def main(url, document=None):
    person, memory = Person(), Memory()
    metadata = OAuthClientMetadata(
        client_name="an agent", redirect_uris=[CALLBACK], grant_types=["authorization_code", "refresh_token"],
        response_types=["code"], token_endpoint_auth_method="none",
    )
    auth = OAuthClientProvider(
        server_url=url, client_metadata=metadata, storage=memory, redirect_handler=person.sign_in,
        callback_handler=person.come_back, client_metadata_url=document,
    )
    async with httpx.AsyncClient(auth=auth, timeout=60) as http, streamable_http_client(url, http_client=http) as streams:
        out = await work(streams[0], streams[1])
    print(json.dumps({**out, "client": memory.client.client_id, "scope": memory.tokens.scope}))


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 90))
