// Shared by the Node suites: the setup, the recording transport and the refusal checks.
//
// Independent of the packages. Sleeps of a package are replaced by a recorder of the pauses.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

export const SETUP = JSON.parse(process.argv[2])
export const KEYS = SETUP.keys
export const PROMPT = 'Say hello.'
export const BREAK_OFF_PROMPT = 'Break off.'
export const REFUSALS = JSON.parse(readFileSync(new URL('refusals.json', import.meta.url), 'utf8'))

/** The packages are installed in the build folder, not above this file. */
export const requirePackage = createRequire(process.env.SDK_NODE)

const pauses = []
const sent = {}
const measured = []
const reported = []
let forwarded = 0

const setTimer = globalThis.setTimeout
globalThis.setTimeout = (work, ms, ...rest) => {
  // The packages sleep in a module named `sleep`; their other timers are timeouts.
  if (!/[/\\]sleep\.m?js/.test(new Error().stack)) return setTimer(work, ms, ...rest)
  pauses.push(ms / 1000)
  return setTimer(work, 0)
}

/** Records the requests and responses of one client; `key` is the name of a key in the setup. */
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
    // Not forwarded to the test's provider: refusals, model lists (the gateway answers them), 502 (the
    // provider was not reached) and calls of the built-in provider.
    const isList = (init.method ?? 'get').toLowerCase() === 'get'
    const unreachable = answer.status === 502
    if (!refused && !isList && !unreachable && this.key !== 'builtIn') forwarded += 1
    return answer
  }

  /** Records the usage of the last response, which must equal that in the request log. */
  reportUsage(inputTokens, outputTokens) {
    assert.ok(inputTokens > 0 && outputTokens > 0)
    reported.push({ requestLogId: this.id, usage: { inputTokens, outputTokens } })
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

/** Provokes one refusal and checks its class, the number of attempts and the pauses between them. */
async function checkRefusal(row, client, kind, retries) {
  const { name, status, text, model, bound } = row
  const request = { text, model, bound }
  if (row.large) request.text = 'x'.repeat(SETUP.bodyBytesMax)
  pauses.length = 0
  const error = await raises(kind, () => client.call(request))
  const { attempts, retryAfter } = client.wire
  assert.equal(attempts, row.retried ? 1 + retries : 1, `attempts of ${name}`)
  assert.equal(pauses.length, attempts - 1, name)
  pauses.forEach((pause, index) => {
    if (retryAfter.length > 0) assert.equal(pause, retryAfter[index], name)
    else assert.ok(pause > 0 && pause <= 10, `${name}: ${pause}`)
  })
  measured.push([name, status, kind.name, attempts, retryAfter[0] ?? '-', [...pauses]])
  return error
}

/**
 * Checks all refusals of `rows` that this dialect has. `kinds` are the package's error classes by status.
 * `code` and `limit` read the machine-readable code and the limit of an error.
 */
export async function checkRefusals(dialect, newClient, { kinds, code, limit, retries, rows = REFUSALS }) {
  for (const row of rows.filter((row) => row.expected[dialect])) {
    const error = await checkRefusal(row, newClient(row.key ?? 'funded'), kinds[row.status], retries)
    assert.deepEqual([error.status, code(error)], [row.status, row.expected[dialect]], row.name)
    if (row.limit) assert.equal(limit(error).limit, 0, row.name)
  }
}

/** Prints the measurements, and on the last line the summary that `sdk.rs` checks. */
export function finish(packageName) {
  const { version } = JSON.parse(readFileSync(packageFile(packageName), 'utf8'))
  for (const [name, status, kind, attempts, retryAfter, waited] of measured) {
    const pauses = waited.map((pause) => pause.toFixed(2)).join(', ') || '-'
    const row = [`${packageName} ${version} (Node)`, name, status, kind, attempts, retryAfter, pauses]
    console.log(`| ${row.join(' | ')} |`)
  }
  console.log(JSON.stringify({ forwarded, sent, reported }))
}

function packageFile(name) {
  return new URL(`node_modules/${name}/package.json`, `file://${process.env.SDK_NODE}`)
}
