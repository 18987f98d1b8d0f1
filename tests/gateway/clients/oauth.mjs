// An agent that has no credential yet, with the OAuth client of the TypeScript SDK, as oauth.py beside it:
// `node oauth.mjs MODULES sdk|client URL [CLIENT_ID_URL]`.
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [modules, which, url, document] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(join(modules, '@modelcontextprotocol', path)));
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = which === 'sdk'
  ? {
      ...(await load('sdk/dist/esm/client/index.js')),
      ...(await load('sdk/dist/esm/client/streamableHttp.js')),
      ...(await load('sdk/dist/esm/client/auth.js')),
    }
  : await load('client/dist/index.mjs');
const CALLBACK = 'http://127.0.0.1:9/callback';

// Follows the provider's pages, which ask nothing, to the client's callback.
async function signIn(start) {
  const cookies = new Map();
  let at = new URL(start);
  while (!at.href.startsWith(CALLBACK)) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const page = await fetch(at, { redirect: 'manual', headers: { cookie } });
    for (const line of page.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value) cookies.set(name, value);
      else cookies.delete(name);
    }
    const next = page.headers.get('location');
    if (!next) throw new Error(`${page.status} ${await page.text()}`);
    at = new URL(next, at);
  }
  return at.searchParams;
}

const kept = {};
let answer;
const provider = {
  redirectUrl: CALLBACK,
  clientMetadataUrl: document,
  clientMetadata: {
    client_name: 'an agent',
    redirect_uris: [CALLBACK],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  clientInformation: () => kept.client,
  saveClientInformation: (client) => { kept.client = client; },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => { kept.tokens = tokens; },
  saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
  codeVerifier: () => kept.verifier,
  redirectToAuthorization: async (start) => { answer = await signIn(start); },
};
if (!document) delete provider.clientMetadataUrl;

const connect = async () => {
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  const client = new Client({ name: 'test', version: '0' });
  try {
    await client.connect(transport);
    return client;
  } catch (error) {
    if (!(error instanceof UnauthorizedError) || !answer) throw error;
    await (which === 'sdk' ? transport.finishAuth(answer.get('code')) : transport.finishAuth(answer));
    return null;
  }
};
const client = (await connect()) ?? (await connect());
const tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
const result = await client.callTool({ name: 'echo', arguments: { text: 'hello' } });
await client.close();
console.log(JSON.stringify({ tools, text: result.content[0].text, client: kept.client.client_id, scope: kept.tokens.scope }));
