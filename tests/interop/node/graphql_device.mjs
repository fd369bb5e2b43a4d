// A device made of the npm packages graphql-ws and ws, as docs/graphql-stream.md describes one.
// Told what to do by its first argument and by lines of JSON; tells what it sees as lines of JSON.
import { createInterface } from 'node:readline';
import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

const asked = JSON.parse(process.argv[2]);
const tell = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);

const QUERY = `subscription ($topics: [TopicCursor!]!) {
  broadcasts(topics: $topics) {
    __typename
    ... on Broadcast { topic stateKey timestamp prev replayed skipped ack { oneIn withinMs } }
    ... on Continuity { topic verdict current: stateKey latest }
    ... on ScheduleChange { topic revision version times { key dueAt } }
    ... on Session { kind node token reconnectAfterMs reconnectWindowMs }
  }
}`;

const tokens = [...asked.tokens];
let windowMs = 1000; // until a node says another
let backAfterMs = null; // this device's own moment, once it was sent away
// What is subscribed again after a reconnect is this object as it is then: cursors that moved, moved here.
const topics = asked.topics;

class Socket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: asked.origin });
  }
}

const client = createClient({
  url: asked.url,
  webSocketImpl: Socket,
  connectionParams: () => ({ token: tokens.length > 1 ? tokens.shift() : tokens[0] }),
  keepAlive: asked.keepAliveMs ?? 0,
  shouldRetry: () => true, // a refused or broken connection too; codes that are final are final all the same
  retryAttempts: asked.attempts ?? 1000,
  retryWait: async (retries) => {
    const waitMs = backAfterMs ?? Math.random() * Math.min(windowMs * 2 ** retries, 120_000);
    backAfterMs = null;
    tell('waiting', { waitMs });
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  },
  on: {
    connected: () => tell('connected'),
    closed: (event) => {
      const told = /reconnect_after_ms=(\d+)/.exec(event.reason ?? '');
      if (told) backAfterMs = Number(told[1]);
      tell('closed', { code: event.code, reason: event.reason });
    },
    ping: (received) => tell('ping', { received }),
    pong: (received) => tell('pong', { received }),
  },
});

function hear(item) {
  if (item.__typename === 'Session') {
    if (item.reconnectWindowMs !== null) windowMs = item.reconnectWindowMs;
    if (item.token !== null) tokens.splice(0, tokens.length, item.token);
    if (item.kind === 'GOAWAY') backAfterMs = item.reconnectAfterMs;
    return;
  }
  const mine = topics.find((entry) => entry.topic === item.topic);
  if (item.__typename === 'Broadcast' && (mine.cursor === null || item.timestamp > mine.cursor)) {
    mine.cursor = item.timestamp;
    tell('applied', { topic: item.topic, stateKey: item.stateKey, timestamp: item.timestamp });
  } else if (item.__typename === 'Continuity' && (item.verdict === 'GAP' || mine.cursor === null)) {
    mine.cursor = Math.max(mine.cursor ?? 0, item.latest);
  }
}

function run(name, payload) {
  return client.subscribe(payload, {
    next: (result) => {
      tell('next', { name, result });
      const item = result.data?.broadcasts;
      if (item) hear(item);
    },
    error: (error) => tell('error', { name, error: Array.isArray(error) ? error : { code: error.code ?? null } }),
    complete: () => tell('complete', { name }),
  });
}

const running = { main: run('main', { query: asked.query ?? QUERY, variables: { topics } }) };

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { run: name, payload, complete } = JSON.parse(line);
  if (name) running[name] = run(name, payload);
  if (complete) running[complete]();
}).on('close', async () => {
  await client.dispose();
});
