// The official `@anthropic-ai/sdk` package: completions, error classes and retries.

import assert from 'node:assert/strict'
import { BREAK_OFF_PROMPT, SETUP, KEYS, PROMPT, Wire, all, finish, requirePackage, raises, checkRefusals } from './suite.mjs'

const Anthropic = requirePackage('@anthropic-ai/sdk')

const kinds = {
  400: Anthropic.BadRequestError,
  401: Anthropic.AuthenticationError,
  402: Anthropic.PaymentRequiredError,
  403: Anthropic.PermissionDeniedError,
  404: Anthropic.NotFoundError,
  413: Anthropic.ContentTooLargeError,
  429: Anthropic.RateLimitError,
  500: Anthropic.InternalServerError,
  502: Anthropic.InternalServerError,
  503: Anthropic.ServiceUnavailableError,
  529: Anthropic.OverloadedError,
}
const tools = [{ name: 'get_weather', input_schema: { type: 'object' } }]
const messages = [{ role: 'user', content: PROMPT }]

/** The package with its default retries; `keyOption` is the constructor option of the key. */
class Client {
  constructor(key = 'funded', url = SETUP.proxy, keyOption = 'apiKey') {
    this.wire = new Wire(key)
    this.api = new Anthropic({ [keyOption]: KEYS[key], baseURL: url, fetch: this.wire.fetch })
  }

  call({ text = PROMPT, model = SETUP.model, bound = 20, ...more } = {}) {
    const messages = [{ role: 'user', content: text }]
    return this.api.messages.create({ model, messages, max_tokens: bound, ...more })
  }

  streamed(more = {}) {
    const request = { model: SETUP.model, messages, max_tokens: 20, ...more }
    return this.api.messages.stream(request).finalMessage()
  }
}

function isWhole(answer) {
  assert.deepEqual(answer.content.map((block) => block.text), [SETUP.text])
  const { input_tokens, output_tokens } = answer.usage
  assert.deepEqual([input_tokens, output_tokens], [SETUP.input, SETUP.output])
  assert.equal(answer.stop_reason, 'end_turn')
}

async function completes() {
  const client = new Client()
  isWhole(await client.call())
  isWhole(await client.streamed())
  const kinds = (await all(await client.call({ stream: true }))).map((event) => event.type)
  assert.deepEqual([kinds[0], kinds.at(-1)], ['message_start', 'message_stop'])
  assert.equal(client.wire.attempts, 3)
}

async function callsTools() {
  const client = new Client()
  for (const answer of [await client.call({ tools }), await client.streamed({ tools })]) {
    const [call] = answer.content
    assert.deepEqual([call.name, call.input], ['get_weather', { city: 'Kraków' }])
    assert.equal(answer.stop_reason, 'tool_use')
  }
}

async function counts() {
  const counted = await new Client().api.messages.countTokens({ model: SETUP.model, messages })
  assert.equal(counted.input_tokens, SETUP.input)
}

async function listsModels() {
  const listed = await all(new Client().api.models.list())
  assert.ok(listed.some((model) => model.id === SETUP.model))
}

async function acceptsBothKeyOptions() {
  for (const keyOption of ['apiKey', 'authToken']) {
    const client = new Client('funded', SETUP.proxy, keyOption)
    isWhole(await client.call())
    const { headers } = client.wire
    assert.deepEqual([headers.has('authorization'), headers.has('x-api-key')], [true, false])
  }
}

async function breaksOff() {
  const stream = await new Client().call({ text: BREAK_OFF_PROMPT, stream: true })
  const error = await raises(Anthropic.APIError, () => all(stream))
  assert.equal(error.error.error.type, 'overloaded_error')
}

async function completesWithTheBuiltInProvider() {
  const client = new Client('builtIn', SETUP.builtIn)
  for (const answer of [await client.call(), await client.streamed()]) {
    assert.ok(answer.content[0].text && answer.usage.output_tokens > 0)
  }
}

await completes()
await callsTools()
await counts()
await listsModels()
await acceptsBothKeyOptions()
await breaksOff()
await completesWithTheBuiltInProvider()
await checkRefusals('anthropic', (key) => new Client(key), {
  kinds,
  code: (error) => {
    assert.ok(error.error.request_id, 'the id under which the call is logged')
    return error.error.error.type
  },
  limit: (error) => error.error.error.limit,
  retries: 2,
})
finish('@anthropic-ai/sdk')
