// Stage maps by fastify and mercurius with its JIT: `node server.mjs NODE_MODULES NIGHT`.
//
// What one would write with them: the operation is persisted and compiled (`jit: 1`), resolvers hand out objects from
// memory. Tokens are verified per request, HS256 with node:crypto and the claims our DGS checks: audience, expiry, and
// that the subject is the profile asked for. No metrics, no limits, no shedding, no ETag, no log. NIGHT is a file of
// `loadtest/bench/prefetch/peer_night.py`. It says {"port":N}, answers each line on standard input, and ends with it.
import { createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'

const [modules, nightPath] = process.argv.slice(2)
const require = createRequire(join(modules, 'here.cjs'))
const fastify = require('fastify')
const mercurius = require('mercurius')
const { GraphQLError } = require('graphql')

const night = JSON.parse(readFileSync(nightPath, 'utf8'))
const file = name => readFileSync(join(dirname(nightPath), name))
const whole = buffer => buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength)
const cells = new Uint32Array(whole(file(night.cells)))
const which = file(night.which)
const titles = night.titles.map(([id, name]) => ({ id, name }))
const numbers = new Map()
for (let number = 0; number < night.profiles; number++) numbers.set(night.prefix + number, number)

const key = Buffer.from(night.secret, 'base64')
const { audience, kid } = night
const LEEWAY_S = 5

function refuse (code, message) {
  throw new GraphQLError(message, { extensions: { code } })
}

function verified (authorization) {
  if (typeof authorization !== 'string' || !authorization.startsWith('Bearer ')) refuse('unauthorized', 'no token')
  const token = authorization.slice(7)
  const first = token.indexOf('.')
  const last = token.lastIndexOf('.')
  if (first < 1 || last === first) refuse('unauthorized', 'not three segments')
  const head = JSON.parse(Buffer.from(token.slice(0, first), 'base64url').toString())
  if (head.alg !== 'HS256' || head.kid !== kid) refuse('unauthorized', 'not a key of ours')
  const expected = createHmac('sha256', key).update(token.slice(0, last)).digest()
  const given = Buffer.from(token.slice(last + 1), 'base64url')
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) refuse('unauthorized', 'not its signature')
  const claims = JSON.parse(Buffer.from(token.slice(first + 1, last), 'base64url').toString())
  if (claims.aud !== audience) refuse('unauthorized', 'for another audience')
  if (!(claims.exp + LEEWAY_S > Date.now() / 1000)) refuse('unauthorized', 'expired')
  return claims
}

// The stages of one profile: the words are the event's, the titles its own.
function stagesOf (number) {
  const stages = night.layouts[which[number]]
  const found = new Array(stages.length)
  let at = number * night.width
  for (let index = 0; index < stages.length; index++) {
    const stage = stages[index]
    const rows = new Array(stage.rows.length)
    for (let row = 0; row < rows.length; row++) {
      const shape = stage.rows[row]
      const heading = shape.because ? night.because + titles[cells[at++]].name : shape.heading
      const shown = new Array(shape.titles)
      for (let title = 0; title < shape.titles; title++) shown[title] = titles[cells[at++]]
      rows[row] = { heading, titles: shown }
    }
    found[index] = { key: stage.key, startsAt: stage.startsAt, headline: stage.headline, rows }
  }
  return found
}

const schema = `
  scalar Timestamp
  enum DeviceKind { TV PHONE TABLET WEB }
  enum ScreenClass { SMALL MEDIUM LARGE }
  input DeviceContext { kind: DeviceKind!, screen: ScreenClass, locale: String }
  type Title { id: ID!, name: String! }
  type Row { heading: String!, titles: [Title!]! }
  type StageEntry { key: String!, order: Int!, startsAt: Timestamp, headline: String!, rows: [Row!]! }
  type LiveEvent { id: ID!, title: String!, topic: String! }
  type StageMap {
    event: LiveEvent!
    version: Int!
    revision: Int!
    ttlSeconds: Int!
    serverTime: Timestamp!
    stages: [StageEntry!]!
  }
  type Query { prefetchEvent(eventId: ID!, profileId: ID!, device: DeviceContext): StageMap! }
`

const resolvers = {
  Query: {
    prefetchEvent (_, { eventId, profileId }, context) {
      if (context.claims.sub !== profileId) refuse('forbidden', 'the token is for another profile')
      const number = numbers.get(profileId)
      if (eventId !== night.event.id || number === undefined) refuse('not_found', 'no such event or profile')
      return {
        event: night.event,
        version: night.version,
        revision: night.revision,
        ttlSeconds: night.ttl_s[0] + Math.floor(Math.random() * (night.ttl_s[1] - night.ttl_s[0])),
        serverTime: Date.now(),
        stages: stagesOf(number)
      }
    }
  }
}

const app = fastify({ logger: false })
app.register(mercurius, {
  schema,
  resolvers,
  jit: 1,
  graphiql: false,
  context: request => ({ claims: verified(request.headers.authorization) }),
  persistedQueryProvider: mercurius.persistedQueryDefaults.prepared({ [night.hash]: night.document })
})
await app.listen({ host: '127.0.0.1', port: 0 })
console.log(JSON.stringify({ port: app.server.address().port }))
const lines = createInterface({ input: process.stdin })
lines.on('line', () => console.log('{}'))
lines.on('close', () => process.exit(0))
