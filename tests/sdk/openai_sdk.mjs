// The official `openai` package for Node: what completes, what raises, what is retried.

import assert from 'node:assert/strict'
import { BREAK_OFF, FACTS, KEYS, SAY, Wire, all, finish, need, raises, walk } from './scene.mjs'

const OpenAI = need('openai')

const kinds = {
  400: OpenAI.BadRequestError,
  401: OpenAI.AuthenticationError,
  // The package has no class of its own for these two.
  402: OpenAI.APIError,
  413: OpenAI.APIError,
  403: OpenAI.PermissionDeniedError,
  404: OpenAI.NotFoundError,
  429: OpenAI.RateLimitError,
  500: OpenAI.InternalServerError,
  502: OpenAI.InternalServerError,
  503: OpenAI.InternalServerError,
}
const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object' } } }]

/** The package as it comes, with its own retries. */
class Client {
  constructor(key = 'funded', url = FACTS.proxy) {
    this.wire = new Wire(key)
    this.api = new OpenAI({ apiKey: KEYS[key], baseURL: `${url}/v1`, fetch: this.wire.fetch })
  }

  ask({ text = SAY, model = FACTS.model, bound = 20, ...more } = {}) {
    const messages = [{ role: 'user', content: text }]
    return this.api.chat.completions.create({ model, messages, max_tokens: bound, ...more })
  }
}

async function textOf(stream) {
  const chunks = await all(stream)
  // A client that did not ask for usage reads choices[0] of every chunk.
  assert.ok(['stop', 'length'].includes(chunks.at(-1).choices[0].finish_reason))
  assert.ok(chunks.every((chunk) => !chunk.usage))
  return chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('')
}

function isUsage(usage) {
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [FACTS.input, FACTS.output])
  assert.equal(usage.total_tokens, FACTS.input + FACTS.output)
}

async function completes() {
  const client = new Client()
  const answer = await client.ask()
  assert.equal(answer.choices[0].message.content, FACTS.text)
  isUsage(answer.usage)
  assert.equal(await textOf(await client.ask({ stream: true })), FACTS.text)
  const asked = { stream: true, stream_options: { include_usage: true } }
  isUsage((await all(await client.ask(asked))).at(-1).usage)
  assert.equal(client.wire.attempts, 3)
}

async function callsTools() {
  const client = new Client()
  const answer = await client.ask({ tools })
  const [call] = answer.choices[0].message.tool_calls
  assert.equal(call.function.name, 'get_weather')
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Kraków' })
  const chunks = await all(await client.ask({ tools, stream: true }))
  const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? [])
  const parts = calls.map((call) => call.function.arguments)
  assert.ok(parts.length > 1)
  assert.deepEqual(JSON.parse(parts.join('')), { city: 'Kraków' })
}

async function embeds() {
  // Without this the package asks for base64, which the fake provider does not speak.
  const asked = { model: FACTS.embedder, input: ['Hello', 'you'], encoding_format: 'float' }
  const answer = await new Client().api.embeddings.create(asked)
  assert.deepEqual(answer.data.map((each) => each.embedding), Array(2).fill([0.25, -0.5, 0.125]))
  assert.equal(answer.usage.prompt_tokens, FACTS.input)
}

async function listsModels() {
  const listed = await all(new Client().api.models.list())
  assert.ok(listed.some((model) => model.id === FACTS.model))
}

async function breaksOff() {
  const stream = await new Client().ask({ text: BREAK_OFF, stream: true })
  const error = await raises(OpenAI.APIError, () => all(stream))
  assert.equal(error.code, 'failed_by_plan')
}

async function completesWithTheBuiltInProvider() {
  const client = new Client('builtIn', FACTS.builtIn)
  const answer = await client.ask()
  assert.ok(answer.choices[0].message.content && answer.usage.total_tokens > 0)
  assert.ok(await textOf(await client.ask({ stream: true })))
}

await completes()
await callsTools()
await embeds()
await listsModels()
await breaksOff()
await completesWithTheBuiltInProvider()
await walk('openai', (key) => new Client(key), {
  kinds,
  word: (error) => {
    assert.ok(error.requestID, 'the id under which the call is logged')
    return error.code
  },
  limit: (error) => error.error.limit,
  retries: 2,
})
finish('openai')
