// An agent's session with the TypeScript SDK: `node node.mjs MODULES sdk|client|remote URL STEPS`, as python.py beside it.
// MODULES is the node_modules folder with @modelcontextprotocol/sdk (1.x) and @modelcontextprotocol/client (2.x). `remote`
// is the SDK 1.x over stdio, in front of mcp-remote.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [modules, which, url, steps] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(modules, '@modelcontextprotocol', path)));

let client, transport;
const first = which !== 'client';
if (first) {
  const { Client } = await load('sdk/dist/esm/client/index.js');
  client = new Client({ name: 'test', version: '0' });
  if (which === 'sdk') {
    const { StreamableHTTPClientTransport } = await load('sdk/dist/esm/client/streamableHttp.js');
    transport = new StreamableHTTPClientTransport(new URL(url));
  } else {
    const { StdioClientTransport } = await load('sdk/dist/esm/client/stdio.js');
    const proxy = join(modules, 'mcp-remote/dist/proxy.js');
    transport = new StdioClientTransport({ command: process.execPath, args: [proxy, url], stderr: 'inherit', env: process.env });
  }
} else {
  const { Client, StreamableHTTPClientTransport } = await load('client/dist/index.mjs');
  // Asks as 2026-07-28 first.
  client = new Client({ name: 'test', version: '0' }, { versionNegotiation: { mode: 'auto' } });
  transport = new StreamableHTTPClientTransport(new URL(url));
}
await client.connect(transport);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const out = [];
for (const [what, name, args] of JSON.parse(steps)) {
  try {
    if (what === 'wait') {
      console.log('wait');
      await lines.next();
      out.push(null);
    } else if (what === 'list') {
      out.push((await client.listTools()).tools.map((tool) => tool.name).sort());
    } else {
      // A watched call asks for progress, and gives up after 3 s without any.
      const told = [];
      const onprogress = ({ progress, message }) => told.push([progress, message]);
      const options = what === 'watch' ? { onprogress, resetTimeoutOnProgress: true, timeout: 3000 } : undefined;
      const params = { name, arguments: args };
      const result = await (first ? client.callTool(params, undefined, options) : client.callTool(params, options));
      const answer = [result.isError === true, result.content[0]?.text ?? ''];
      out.push(options ? [...answer, told] : answer);
    }
  } catch (error) {
    if (typeof error.code !== 'number') throw error;
    out.push({ code: error.code, message: error.message });
  }
}
await client.close();
console.log(JSON.stringify({ version: transport.protocolVersion ?? null, steps: out }));
process.exit(0);
