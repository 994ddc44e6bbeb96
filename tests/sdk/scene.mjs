// What the Node suites share: the facts of the scene, what goes over the wire, what is raised.
//
// Nothing here names a package. Nobody sleeps: what a package would wait is noted instead.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

export const FACTS = JSON.parse(process.argv[2])
export const KEYS = FACTS.keys
export const SAY = 'Say hello.'
export const BREAK_OFF = 'Break off.'
export const REFUSALS = JSON.parse(readFileSync(new URL('refusals.json', import.meta.url), 'utf8'))

/** The packages lie beside the build, not above this file. */
export const need = createRequire(process.env.SDK_NODE)

const pauses = []
const sent = {}
const measured = []
const told = []
let forwarded = 0

const later = globalThis.setTimeout
globalThis.setTimeout = (work, ms, ...rest) => {
  // The packages sleep by a module of that name; their other timers guard a call.
  if (!/[/\\]sleep\.m?js/.test(new Error().stack)) return later(work, ms, ...rest)
  pauses.push(ms / 1000)
  return later(work, 0)
}

/** What one client sends and gets, by the `fetch` it is given; `key` is a name of the scene. */
export class Wire {
  attempts = 0
  retryAfter = []

  constructor(key) {
    this.key = key
  }

  fetch = async (url, init) => {
    this.attempts += 1
    this.headers = new Headers(init.headers)
    sent[this.key] = (sent[this.key] ?? 0) + 1
    const answer = await fetch(url, init)
    this.id = answer.headers.get('x-request-id')
    if (answer.headers.has('retry-after')) {
      this.retryAfter.push(Number(answer.headers.get('retry-after')))
    }
    const refused = answer.headers.get('x-meteor-error-source') === 'gateway'
    // The gateway lists models itself; 502 says that the provider was not reached; and another one
    // is built in.
    const listed = (init.method ?? 'get').toLowerCase() === 'get'
    const away = answer.status === 502
    if (!refused && !listed && !away && this.key !== 'builtIn') forwarded += 1
    return answer
  }

  /** Notes the usage that the last answer told, which the request log has to have, too. */
  tells(inputTokens, outputTokens) {
    assert.ok(inputTokens > 0 && outputTokens > 0)
    told.push({ requestLogId: this.id, usage: { inputTokens, outputTokens } })
  }
}

export async function raises(kind, call) {
  let error
  try {
    await call()
  } catch (raised) {
    error = raised
  }
  assert.ok(error, `${kind.name} was not raised`)
  assert.equal(error.constructor, kind, `${error.constructor.name}, not ${kind.name}: ${error}`)
  return error
}

export async function all(stream) {
  const events = []
  for await (const event of stream) events.push(event)
  return events
}

/** Asks for one refusal: its class, how often it was asked for, and how long the pauses were. */
async function refused(row, client, kind, retries) {
  const { what, status, text, model, bound } = row
  const asked = { text, model, bound }
  if (row.large) asked.text = 'x'.repeat(FACTS.bodyBytesMax)
  pauses.length = 0
  const error = await raises(kind, () => client.ask(asked))
  const { attempts, retryAfter } = client.wire
  assert.equal(attempts, row.retried ? 1 + retries : 1, `how often ${what} was asked for`)
  assert.equal(pauses.length, attempts - 1, what)
  pauses.forEach((pause, index) => {
    if (retryAfter.length > 0) assert.equal(pause, retryAfter[index], what)
    else assert.ok(pause > 0 && pause <= 10, `${what}: ${pause}`)
  })
  measured.push([what, status, kind.name, attempts, retryAfter[0] ?? '-', [...pauses]])
  return error
}

/**
 * All refusals of `rows` that this dialect has. `kinds` are the package's classes by status; `word` gives
 * from an error that by which programs tell it from others, `limit` the limit that it names.
 */
export async function walk(dialect, newClient, { kinds, word, limit, retries, rows = REFUSALS }) {
  for (const row of rows.filter((row) => row.said[dialect])) {
    const error = await refused(row, newClient(row.key ?? 'funded'), kinds[row.status], retries)
    assert.deepEqual([error.status, word(error)], [row.status, row.said[dialect]], row.what)
    if (row.limit) assert.equal(limit(error).limit, 0, row.what)
  }
}

/** Says what was measured, and on the last line what the other side of the scene checks. */
export function finish(name) {
  const { version } = JSON.parse(readFileSync(packageFile(name), 'utf8'))
  for (const [what, status, kind, attempts, told, waited] of measured) {
    const pauses = waited.map((pause) => pause.toFixed(2)).join(', ') || '-'
    const row = [`${name} ${version} (Node)`, what, status, kind, attempts, told, pauses]
    console.log(`| ${row.join(' | ')} |`)
  }
  console.log(JSON.stringify({ forwarded, sent, told }))
}

function packageFile(name) {
  return new URL(`node_modules/${name}/package.json`, `file://${process.env.SDK_NODE}`)
}
