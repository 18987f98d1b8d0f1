"""The agent of the demo: an MCP client that knows one URL and nothing else.

In: the URL of an MCP server. Out: the server's answers, as plain values. It holds no credential for MLflow and checks nothing; demo.py compares the answers with MLflow itself.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, AsyncIterator

import httpx
from mcp import ClientSession, McpError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

PATIENCE = timedelta(seconds=90)


@dataclass(frozen=True)
class Answer:
    """An answer to tools/call: a result, or an error of the protocol."""

    ok: bool
    text: str
    values: list[Any] = field(default_factory=list)  # the texts that are JSON, parsed
    code: int | None = None  # of a protocol error
    retry_after_ms: int | None = None


class Agent:
    def __init__(self, session: ClientSession):
        self._session = session

    async def tools(self) -> list[str]:
        names: list[str] = []
        cursor = None
        for _ in range(100):
            page = await self._session.list_tools(cursor)
            names += [tool.name for tool in page.tools]
            cursor = page.nextCursor
            if not cursor:
                break
        return names

    async def prompts(self) -> list[str]:
        return [prompt.name for prompt in (await self._session.list_prompts()).prompts]

    async def call(self, tool: str, **arguments: Any) -> Answer:
        try:
            result = await self._session.call_tool(tool, arguments, read_timeout_seconds=PATIENCE)
        except McpError as error:
            return Answer(ok=False, text=error.error.message, code=error.error.code)
        texts = [block.text for block in result.content if block.type == "text"]
        values = []
        for text in texts:
            try:
                values.append(json.loads(text))
            except ValueError:
                pass
        return Answer(
            ok=not result.isError,
            text="\n".join(texts),
            values=values,
            retry_after_ms=(result.meta or {}).get("portcullis.dev/retryAfterMs"),
        )


@asynccontextmanager
async def over_http(url: str, auth: httpx.Auth | None = None) -> AsyncIterator[Agent]:
    """An agent that reaches the server through the gateway, with a credential if the gateway asks for one."""
    timeout = httpx.Timeout(30, read=300)
    async with httpx.AsyncClient(auth=auth, timeout=timeout) as http, streamable_http_client(url, http_client=http) as (read, write, _):
        async with ClientSession(read, write, read_timeout_seconds=PATIENCE) as session:
            await session.initialize()
            yield Agent(session)


@asynccontextmanager
async def over_stdio(command: str, env: dict[str, str], log: Any) -> AsyncIterator[Agent]:
    """An agent that starts the server itself, with nothing between."""
    parameters = StdioServerParameters(command=command, env=env)
    async with stdio_client(parameters, errlog=log) as (read, write):
        async with ClientSession(read, write, read_timeout_seconds=PATIENCE) as session:
            await session.initialize()
            yield Agent(session)
