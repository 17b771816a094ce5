// The certified OpenID provider for the tests: `oidc-provider`, with an admin surface of ours on a second port.
//
// The first line on stdin is the configuration (JSON, see `defaults`), the first line on stdout is
// {"issuer", "port", "admin", "pid"}. The process ends when stdin closes, so it cannot outlive a test run, even a killed one.

import { createServer } from 'node:http';
import { generateKeyPair } from 'node:crypto';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import Provider from 'oidc-provider';

const defaults = {
  host: '127.0.0.1', // or localhost, which browsers take for another site
  clients: [],
  scopes: ['Mail.Read', 'Mail.Send'], // besides the standard ones; their access tokens are opaque
  resources: {}, // indicator -> { scope, accessTokenFormat: 'opaque' | 'jwt', accessTokenTTL }
  defaultResource: null,
  ttl: {}, // model -> seconds
  rotateRefreshToken: true,
  issueRefreshToken: 'always', // or 'offline_access'
  expiresWithSession: 'without_offline_access', // or true, false
  sidInIdToken: true, // false leaves it to the clients that register backchannel_logout_session_required
  conformIdTokenClaims: false, // false puts name and email into the ID token, as most providers do
  configuration: {}, // anything else, passed on as it is
};

const events = [];
const listeners = new Set();
const issued = new Map();
const ledger = new Map();
let faults = [];
let held = [];

function record(name, details = {}) {
  events.push({ seq: events.length + 1, at: Date.now() / 1000, name, ...details });
  for (const listener of listeners) listener();
}

function remember(kind, value) {
  if (value) issued.set(value, kind);
}

// The one that oidc-provider brings forgets what is beyond 1000 entries.
const storage = new Map();

class Adapter {
  static byGrant = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken']);

  static tokens = new Set(['AccessToken', 'RefreshToken']);

  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload, expiresIn) {
    const expires = expiresIn ? Date.now() + expiresIn * 1000 : Infinity;
    storage.set(this.key(id), { model: this.model, id, payload, expires });
    if (Adapter.byGrant.has(this.model)) remember(this.model, id);
    if (Adapter.tokens.has(this.model) && !ledger.has(id)) {
      ledger.set(id, { kind: this.model, value: id, account_id: payload.accountId, grant_id: payload.grantId, at: Date.now() / 1000 });
    }
  }

  async find(id) {
    const entry = storage.get(this.key(id));
    if (entry && entry.expires <= Date.now()) {
      storage.delete(this.key(id));
      return undefined;
    }
    return entry?.payload;
  }

  async findByUid(uid) {
    return entries(this.model).find((entry) => entry.payload.uid === uid)?.payload;
  }

  async findByUserCode() {
    return undefined;
  }

  async destroy(id) {
    storage.delete(this.key(id));
  }

  async consume(id) {
    storage.get(this.key(id)).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async revokeByGrantId(grantId) {
    for (const { id, payload } of entries(this.model)) {
      if (payload.grantId === grantId) storage.delete(this.key(id));
    }
  }
}

function entries(model) {
  const now = Date.now();
  return [...storage.values()].filter((entry) => entry.model === model && entry.expires > now);
}

async function newKeys() {
  const generate = promisify(generateKeyPair);
  const pairs = await Promise.all([
    generate('rsa', { modulusLength: 2048 }),
    generate('ec', { namedCurve: 'P-256' }),
    generate('ed25519'),
  ]);
  return pairs.map(({ privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), use: 'sig' }));
}

function name(sub) {
  return sub.charAt(0).toUpperCase() + sub.slice(1);
}

function setUp(options, keys) {
  const scopes = ['openid', 'offline_access', 'profile', 'email', ...options.scopes];
  return {
    adapter: Adapter,
    clients: [inspector, ...options.clients],
    jwks: { keys },
    cookies: { keys: ['only for tests'] },
    claims: { openid: ['sub', 'sid'], profile: ['name'], email: ['email', 'email_verified'] },
    conformIdTokenClaims: options.conformIdTokenClaims,
    scopes,
    pkce: { required: () => true },
    ttl: {
      AccessToken: 3600, AuthorizationCode: 60, Grant: 86400, IdToken: 3600, Interaction: 3600, RefreshToken: 86400, Session: 86400,
      ...options.ttl,
    },
    rotateRefreshToken: options.rotateRefreshToken,
    issueRefreshToken: async (ctx, client, code) => client.grantTypeAllowed('refresh_token')
      && (options.issueRefreshToken === 'always' || code.scopes.has('offline_access')),
    expiresWithSession: async (ctx, code) => (options.expiresWithSession === 'without_offline_access'
      ? !code.scopes.has('offline_access')
      : options.expiresWithSession),
    findAccount: async (ctx, sub) => ({
      accountId: sub,
      claims: async () => ({ sub, name: name(sub), email: `${sub}@example.com`, email_verified: true }),
    }),
    // The dispatcher that oidc-provider passes refuses every loopback address, which is where the tests' apps are.
    fetch: async (url, { dispatcher, ...rest }) => {
      const token = rest.body instanceof URLSearchParams && rest.body.get('logout_token');
      remember('LogoutToken', token);
      const answer = await fetch(url, rest);
      if (token) {
        const { aud, sub, sid } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
        record('logout_token.answered', { client_id: aud, account_id: sub, sid, status: answer.status });
      }
      return answer;
    },
    features: {
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      backchannelLogout: { enabled: true },
      revocation: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: async () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: async (ctx, client, oneOf) => oneOf ?? options.defaultResource ?? undefined,
        useGrantedResource: async () => true,
        getResourceServerInfo: async (ctx, indicator) => {
          const resource = options.resources[indicator];
          if (!resource) throw Object.assign(new Error('unknown resource'), { status: 400, expose: true, error: 'invalid_target' });
          return { accessTokenFormat: 'opaque', ...resource };
        },
      },
    },
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA', 'HS256'],
    },
    renderError: async (ctx, out) => {
      ctx.type = 'json';
      ctx.body = out;
    },
    ...options.configuration,
  };
}

// For the tests' own questions at the introspection endpoint.
const inspector = {
  client_id: 'inspector', client_secret: 'inspector-secret', grant_types: [], response_types: [], redirect_uris: [],
};

/** What an event's arguments say that tests ask for: never all of them, they hold half of the provider. */
function describe(args) {
  const details = {};
  const note = (key, value) => {
    if (value !== undefined && details[key] === undefined) details[key] = value;
  };
  for (const arg of args) {
    if (arg instanceof Error) {
      note('error', arg.error ?? arg.name);
      note('error_description', arg.error_detail ?? arg.error_description ?? arg.message);
    } else if (arg?.oidc) {
      note('route', arg.oidc.route);
      note('client_id', arg.oidc.entities.Client?.clientId);
      note('account_id', arg.oidc.entities.Account?.accountId ?? arg.oidc.session?.accountId);
      note('grant_type', arg.oidc.params?.grant_type);
    } else if (arg?.kind) {
      note('kind', arg.kind);
      note('id', arg.jti);
      note('client_id', arg.clientId);
      note('account_id', arg.accountId);
      note('grant_id', arg.grantId);
      note('scope', arg.scope);
    } else if (arg?.clientId) {
      note('client_id', arg.clientId);
    }
  }
  return details;
}

function build(options, keys) {
  const provider = new Provider(issuer, setUp(options, keys));
  // The one place that decides: `claims` in the configuration only says that it may.
  if (options.sidInIdToken) provider.Client.prototype.includeSid = () => true;
  const emit = provider.emit.bind(provider);
  provider.emit = (event, ...args) => {
    const details = describe(args);
    if (event === 'grant.revoked') details.grant_id = args[1];
    if (event.startsWith('backchannel.')) {
      const [client, account, sid] = args.slice(-3);
      Object.assign(details, { client_id: client.clientId, account_id: account, sid });
    }
    if (event === 'server_error') process.stderr.write(`${args[1]?.stack}\n`);
    record(event, details);
    return emit(event, ...args);
  };
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'token' && ctx.status === 200) {
      remember('CodeVerifier', ctx.oidc.params.code_verifier);
      remember('AccessToken', ctx.body.access_token);
      remember('RefreshToken', ctx.body.refresh_token);
      remember('IdToken', ctx.body.id_token);
    }
  });
  return provider;
}

function release() {
  const waiting = held;
  held = [];
  for (const go of waiting) go();
  return waiting.length;
}

async function serve(req, res) {
  const { pathname, searchParams } = new URL(req.url, issuer);
  remember('State', searchParams.get('state'));
  remember('Nonce', searchParams.get('nonce'));
  const index = faults.findIndex((fault) => fault.path === pathname || fault.path === '*');
  const fault = faults[index];
  if (fault?.times !== undefined) {
    fault.times -= 1;
    if (fault.times <= 0) faults.splice(index, 1);
  }
  const hold = () => new Promise((go) => {
    held.push(go);
    record('request.held', { path: pathname });
  });
  const [authorization] = (req.headers.authorization ?? '').toLowerCase().split(' ');
  record('request', { method: req.method, path: pathname, authorization, fault: fault?.action });
  res.on('finish', () => record('response', { method: req.method, path: pathname, status: res.statusCode }));

  switch (fault?.action) {
    case 'drop':
      return req.socket.destroy();
    case 'status':
      res.writeHead(fault.status, { 'content-type': 'application/json', ...fault.headers });
      return res.end(fault.body ?? '{"error":"temporarily_unavailable"}');
    case 'hold':
      await hold();
      break;
    case 'drop_response':
      res.end = () => req.socket.destroy();
      break;
    case 'hold_response': {
      const end = res.end.bind(res);
      res.end = (...args) => {
        hold().then(() => end(...args));
        return res;
      };
      break;
    }
    default:
  }
  return handle(req, res);
}

const admin = {
  'GET /events': async ({ query }) => {
    const after = Number(query.get('after') ?? 0);
    const wanted = query.get('name');
    const found = () => events.slice(after).filter((event) => !wanted || event.name === wanted);
    if (query.has('wait_ms') && !found().length) {
      await new Promise((resolve) => {
        const finish = () => {
          clearTimeout(timer);
          listeners.delete(look);
          resolve();
        };
        const look = () => found().length && finish();
        const timer = setTimeout(finish, Number(query.get('wait_ms')));
        listeners.add(look);
      });
    }
    return found();
  },
  'GET /issued': async () => [...issued].map(([value, kind]) => ({ kind, value })),
  'GET /sessions': async () => entries('Session')
    .filter(({ payload }) => payload.accountId)
    .map(({ payload }) => ({
      uid: payload.uid,
      account_id: payload.accountId,
      clients: Object.fromEntries(Object.entries(payload.authorizations ?? {}).map(([client, { sid, grantId, persistsLogout }]) => (
        [client, { sid, grant_id: grantId, persists_logout: !!persistsLogout }]))),
    })),
  'GET /tokens': async () => ['AccessToken', 'RefreshToken'].flatMap(entries).map(({ payload }) => ({
    kind: payload.kind,
    value: payload.jti,
    account_id: payload.accountId,
    client_id: payload.clientId,
    grant_id: payload.grantId,
    scope: payload.scope,
    consumed: !!payload.consumed,
    expires_with_session: !!payload.expiresWithSession,
  })),
  // Every token that was ever issued. One that was revoked is gone, as one that has expired.
  'GET /ledger': async () => [...ledger.values()].map((token) => {
    const entry = storage.get(`${token.kind}:${token.value}`);
    const held = entry && entry.expires > Date.now();
    return { ...token, state: held ? (entry.payload.consumed ? 'consumed' : 'active') : 'gone' };
  }),
  // As when the provider's administrator ends a user's sessions, or they expire: no client is told.
  'POST /sessions/end': async ({ body }) => {
    const ended = entries('Session').filter(({ payload }) => !body.account_id || payload.accountId === body.account_id);
    for (const { id } of ended) storage.delete(`Session:${id}`);
    return { ended: ended.length };
  },
  'POST /grants/revoke': async ({ body }) => {
    for (const model of [...Adapter.byGrant, 'Grant']) {
      for (const { id, payload } of entries(model)) {
        if (payload.accountId === body.account_id) storage.delete(`${model}:${id}`);
      }
    }
    return {};
  },
  'POST /backchannel': async ({ body }) => {
    const client = await provider.Client.find(body.client_id);
    try {
      // Without a value a claim is left out.
      await client.backchannelLogout(body.sub ?? undefined, body.sid ?? undefined);
      return { ok: true };
    } catch (error) {
      return { ok: false, status: error.response?.status, error: error.message };
    }
  },
  'POST /clients': async ({ body }) => {
    options.clients = [...options.clients.filter(({ client_id: id }) => id !== body.client_id), body];
    rebuild();
    return {};
  },
  'POST /configure': async ({ body }) => {
    Object.assign(options, body);
    rebuild();
    return {};
  },
  'POST /keys/rotate': async ({ body }) => {
    keys = [...await newKeys(), ...(body.keep_old ? keys : [])];
    rebuild();
    return {};
  },
  'POST /faults': async ({ body }) => {
    faults.push(body);
    return {};
  },
  'DELETE /faults': async () => {
    faults = [];
    return { released: release() };
  },
  'POST /release': async () => ({ released: release() }),
};

async function administer(req, res) {
  const url = new URL(req.url, 'http://admin');
  const operation = admin[`${req.method} ${url.pathname}`];
  let status = 200;
  let answer;
  try {
    let text = '';
    for await (const chunk of req) text += chunk;
    if (!operation) throw new Error(`no such operation: ${req.method} ${url.pathname}`);
    answer = await operation({ query: url.searchParams, body: text ? JSON.parse(text) : {} });
  } catch (error) {
    status = 500;
    answer = { error: error.message, description: error.error_description };
  }
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify(answer));
}

/** A new provider over the same storage: how clients, options and keys change while sessions and grants stay. */
function rebuild() {
  provider = build(options, keys);
  handle = provider.callback();
}

const lines = createInterface({ input: process.stdin });
const first = await new Promise((resolve, reject) => {
  lines.once('line', resolve);
  lines.once('close', () => reject(new Error('stdin closed before the configuration came')));
});
lines.on('close', () => process.exit(0));

// What it warns about is what a test wants: the development pages, plain http.
console.warn = () => {};
console.info = () => {};

const options = { ...defaults, ...JSON.parse(first) };
let keys = await newKeys();
const app = createServer(serve);
// Longer than any client keeps a connection: a request must not meet the end of one.
app.keepAliveTimeout = 300_000;
const adminServer = createServer(administer);
const listen = (server) => new Promise((resolve) => {
  server.listen(0, '127.0.0.1', () => resolve(server.address().port));
});
const [port, adminPort] = await Promise.all([listen(app), listen(adminServer)]);
const issuer = `http://${options.host}:${port}`;
let provider;
let handle;
rebuild();
setInterval(() => {
  const now = Date.now();
  for (const [key, { expires }] of storage) if (expires <= now) storage.delete(key);
}, 30_000).unref();
process.stdout.write(`${JSON.stringify({
  issuer, port, admin: `http://127.0.0.1:${adminPort}`, pid: process.pid,
})}\n`);
