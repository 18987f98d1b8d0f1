"""Load on a gateway, and the judgement of each of its answers. Runs in the agent's pod.

In: one call that policy allows, with what its answer must be, and calls that policy hides. Each worker makes them in turn,
over plain HTTP, so that nothing between hides what came back.
Out: counts. Every answer is one of

    right        the allowed call brought its value; the hidden one the answer for a tool that does not exist
    unavailable  nothing was decided: no connection or it broke, HTTP 502/503/504, a session that is no more (404), or -32603
    wrong        all else: an allowed call refused or with another value, a hidden one let through or answered differently
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx

JSON_HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
VERSION = "2025-11-25"
CALLS_PER_CONNECTION = 6
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "load", "version": "1"}},
}


class Unavailable(Exception):
    """Nothing was decided."""


def message_of(answer: httpx.Response) -> dict[str, Any]:
    """The JSON-RPC message with an id in a body that is JSON or a stream of events."""
    if answer.headers.get("content-type", "").startswith("application/json"):
        return answer.json()
    for line in answer.text.splitlines():
        if line.startswith("data:") and (data := line[5:].strip()):
            message = json.loads(data)
            if "id" in message and "method" not in message:
                return message
    # The stream ended before its answer.
    raise Unavailable("no answer in the stream")


def values_of(result: dict[str, Any]) -> list[Any]:
    """The texts of a result, parsed."""
    try:
        return [json.loads(block["text"]) for block in result["content"]]
    except (KeyError, ValueError):
        return []


class Load:
    def __init__(self, url: str, workers: int, allowed: dict[str, Any], refused: dict[str, Any]):
        self._url = url
        self._workers = workers
        self._allowed = allowed  # {"tool", "arguments", "values"}
        self._refused = refused  # {"tools": [[tool, arguments], …]}
        self._counts: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._why: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._rounds = [0] * workers  # of right answers in a row, for each worker
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self._workers)]

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    def seen(self) -> dict[str, Any]:
        return {
            "counts": dict(self._counts),
            "sent": dict(self._sent),
            "unavailable": dict(self._why),
            "wrong": self._wrong,
            "steady": min(self._rounds),
        }

    async def _work(self, number: int) -> None:
        while not self._over:
            try:
                await self._session(number)
            except (httpx.TransportError, Unavailable) as error:
                self._rounds[number] = 0
                self._counts["unavailable"] += 1
                self._why[f"{type(error).__name__}: {error}"[:80]] += 1
                # Not to be the only one who gets to run while the pods start.
                await asyncio.sleep(0.05)

    async def _session(self, number: int) -> None:
        headers = {"MCP-Protocol-Version": VERSION}
        async with httpx.AsyncClient(timeout=30) as client:
            opened = await self._post(client, INITIALIZE, {})
            if session := opened.headers.get("mcp-session-id"):
                headers["Mcp-Session-Id"] = session
            message_of(opened)
            await self._post(client, {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
        turn = number
        while not self._over:
            # A Service chooses a pod for each connection: with a new one now and then the session meets every gateway.
            async with httpx.AsyncClient(timeout=30) as client:
                for _ in range(CALLS_PER_CONNECTION):
                    turn += 1
                    if turn % 2:
                        await self._one(client, headers, turn, "allowed", self._allowed["tool"], self._allowed["arguments"])
                    else:
                        tool, arguments = self._refused["tools"][turn // 2 % len(self._refused["tools"])]
                        await self._one(client, headers, turn, "refused", tool, arguments)
                    self._rounds[number] += 1

    async def _one(self, client: Any, headers: Any, turn: int, kind: str, tool: str, arguments: Any) -> None:
        self._sent[kind] += 1
        params = {"name": tool, "arguments": arguments}
        answer = await self._post(client, {"jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": params}, headers)
        message = message_of(answer)
        error = message.get("error")
        if error is not None and error["code"] == -32603:
            raise Unavailable(f"-32603 {error['message']}")
        if kind == "refused":
            right = error == {"code": -32602, "message": f"Unknown tool: {tool}"}
        else:
            result = message.get("result") or {}
            right = error is None and not result.get("isError") and values_of(result) == self._allowed["values"]
        self._counts[f"{kind} right" if right else f"{kind} wrong"] += 1
        if not right and len(self._wrong) < 20:
            self._wrong.append(f"{tool}: {json.dumps(message)[:400]}")

    async def _post(self, client: httpx.AsyncClient, body: Any, headers: dict[str, str]) -> httpx.Response:
        answer = await client.post(self._url, json=body, headers={**JSON_HEADERS, **headers})
        if answer.status_code in (404, 502, 503, 504):
            raise Unavailable(f"HTTP {answer.status_code}")
        if answer.status_code not in (200, 202):
            self._counts["wrong status"] += 1
            self._wrong.append(f"HTTP {answer.status_code}: {answer.text[:300]}")
            raise Unavailable(f"HTTP {answer.status_code}")
        return answer
