"""Runs in the agent's pod: an MCP client that does what it is told on standard input, one JSON line each, and answers
with one JSON line each on standard output.

    {"id": 1, "do": "open", "url": …}           a session with the Python SDK; closes the one before. "token" names a file
                                                 with a credential; a kubelet renews it, and it is read for each request
    {"id": 2, "do": "tools"}                     names of the tools
    {"id": 3, "do": "call", "tool": …, "arguments": {…}}
    {"id": 4, "do": "raw", "url": …, "headers": {…}}     HTTP status of an initialize without the SDK; "token" as above
    {"id": 5, "do": "load", "url": …, "workers": N, "allowed": {…}, "refused": {…}}   begins load; see load.py
    {"id": 6, "do": "count"}                     what the load has seen so far
    {"id": 7, "do": "stop"}                      ends the load; the same, at the end
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, "/code")
import httpx
from agent import Agent, over_http
from load import INITIALIZE, JSON_HEADERS, Load


class TokenFile(httpx.Auth):
    """Presents the token that a file holds now."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        request.headers["Authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


class Session:
    """A session that lives in a task of its own: the SDK wants its contexts opened and closed by one task."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.agent: Agent | None = None

    async def open(self, url: str, token: str | None) -> None:
        await self.close()
        ready: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()

        async def hold() -> None:
            try:
                async with over_http(url, TokenFile(token) if token else None) as agent:
                    ready.set_result(agent)
                    await self._closing.wait()
            except BaseException as error:  # noqa: BLE001 - told to who asked
                if not ready.done():
                    ready.set_exception(RuntimeError(innermost(error)))

        self._task = asyncio.create_task(hold())
        self.agent = await ready

    async def close(self) -> None:
        if self._task is not None:
            self._closing.set()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = self.agent = None

    def now(self) -> Agent:
        if self.agent is None:
            raise RuntimeError("there is no session")
        return self.agent


def innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def main() -> None:
    session, load = Session(), None
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        try:
            match order["do"]:
                case "open":
                    await session.open(order["url"], order.get("token"))
                    result: Any = None
                case "tools":
                    result = await session.now().tools()
                case "call":
                    result = asdict(await session.now().call(order["tool"], **order["arguments"]))
                case "raw":
                    auth = TokenFile(order["token"]) if "token" in order else None
                    async with httpx.AsyncClient(timeout=10, auth=auth) as client:
                        answer = await client.post(
                            order["url"], json=INITIALIZE, headers={**JSON_HEADERS, **order["headers"]}
                        )
                    result = answer.status_code
                case "load":
                    load = Load(order["url"], order["workers"], order["allowed"], order["refused"])
                    load.start()
                    result = None
                case "count":
                    result = load.seen()
                case "stop":
                    await load.stop()
                    result = load.seen()
                case other:
                    raise ValueError(f"there is no order {other!r}")
            reply = {"id": order["id"], "result": result}
        except Exception as error:  # noqa: BLE001 - told to who asked
            reply = {"id": order["id"], "error": innermost(error)}
        print(json.dumps(reply), flush=True)
    await session.close()


asyncio.run(main())
