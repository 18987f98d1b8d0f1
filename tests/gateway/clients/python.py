"""An agent's session with the Python SDK, 1.x or 2.x: what it asks for is on the command line, what it got on standard output.

    python python.py URL STEPS

STEPS is a JSON list of ["list"], ["call", TOOL, ARGUMENTS] and ["watch", TOOL, ARGUMENTS], a call that asks for progress.
Prints one JSON document: the negotiated version and, for each step, the names of the tools, or [is_error, text], with a
list of [progress, message] for a watched call, or {"code", "message"} of a JSON-RPC error.
"""

import asyncio
import json
import sys
from importlib.metadata import version


def failed(error):
    data = error.error
    return {"code": data.code, "message": data.message}


async def steps(session, wanted, rpc_error):
    out = []
    for step in wanted:
        try:
            if step[0] == "list":
                out.append(sorted(tool.name for tool in (await session.list_tools()).tools))
            else:
                told = []

                async def progress(value, _total, message):
                    told.append([value, message])

                watch = {"progress_callback": progress} if step[0] == "watch" else {}
                result = await session.call_tool(step[1], step[2], **watch)
                failure = getattr(result, "is_error", getattr(result, "isError", None))
                text = result.content[0].text if result.content else ""
                out.append([bool(failure), text, *([told] if watch else [])])
        except rpc_error as error:
            out.append(failed(error))
    return out


async def first(url, wanted):
    from mcp import ClientSession, McpError
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        started = await session.initialize()
        return {"version": started.protocolVersion, "steps": await steps(session, wanted, McpError)}


async def second(url, wanted):
    from mcp.client.client import Client
    from mcp.shared.exceptions import MCPError

    # The default: asks as 2026-07-28 first.
    async with Client(url) as client:
        return {"version": client.protocol_version, "steps": await steps(client, wanted, MCPError)}


async def main():
    run = first if version("mcp").startswith("1.") else second
    print(json.dumps(await asyncio.wait_for(run(sys.argv[1], json.loads(sys.argv[2])), 60)))


asyncio.run(main())
