// The official `openai` package for Node: completions, error classes and retries.

import assert from 'node:assert/strict'
import { BREAK_OFF_PROMPT, SETUP, KEYS, REFUSALS, PROMPT, Wire, all, finish, requirePackage, raises, checkRefusals } from './suite.mjs'

const OpenAI = requirePackage('openai')

const kinds = {
  400: OpenAI.BadRequestError,
  401: OpenAI.AuthenticationError,
  // The package has no separate class for these two.
  402: OpenAI.APIError,
  413: OpenAI.APIError,
  403: OpenAI.PermissionDeniedError,
  404: OpenAI.NotFoundError,
  429: OpenAI.RateLimitError,
  500: OpenAI.InternalServerError,
  502: OpenAI.InternalServerError,
  503: OpenAI.InternalServerError,
}
// The gateway waits before it refuses a wallet on hold; one endpoint is enough for that case.
const forResponses = REFUSALS.filter((row) => row.key !== 'held').map((row) => ({
  ...row,
  name: `${row.name}, for a response`,
}))
const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object' } } }]

/** The package with its default retries. */
class Client {
  constructor(key = 'funded', url = SETUP.proxy) {
    this.wire = new Wire(key)
    this.api = new OpenAI({ apiKey: KEYS[key], baseURL: `${url}/v1`, fetch: this.wire.fetch })
  }

  call({ text = PROMPT, model = SETUP.model, bound = 20, ...more } = {}) {
    const messages = [{ role: 'user', content: text }]
    return this.api.chat.completions.create({ model, messages, max_tokens: bound, ...more })
  }
}

/** A client of the responses endpoint. */
class Responding extends Client {
  call({ text = PROMPT, model = SETUP.model, bound, ...more } = {}) {
    return this.api.responses.create({ model, input: text, max_output_tokens: bound, ...more })
  }

  reportUsage({ usage }) {
    this.wire.reportUsage(usage.input_tokens, usage.output_tokens)
  }
}

async function textOf(stream) {
  const chunks = await all(stream)
  // A client that has not requested usage reads choices[0] of every chunk.
  assert.ok(['stop', 'length'].includes(chunks.at(-1).choices[0].finish_reason))
  assert.ok(chunks.every((chunk) => !chunk.usage))
  return chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('')
}

function isUsage(usage) {
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [SETUP.input, SETUP.output])
  assert.equal(usage.total_tokens, SETUP.input + SETUP.output)
}

async function completes() {
  const client = new Client()
  const answer = await client.call()
  assert.equal(answer.choices[0].message.content, SETUP.text)
  isUsage(answer.usage)
  assert.equal(await textOf(await client.call({ stream: true })), SETUP.text)
  const request = { stream: true, stream_options: { include_usage: true } }
  isUsage((await all(await client.call(request))).at(-1).usage)
  assert.equal(client.wire.attempts, 3)
}

async function callsTools() {
  const client = new Client()
  const answer = await client.call({ tools })
  const [call] = answer.choices[0].message.tool_calls
  assert.equal(call.function.name, 'get_weather')
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Kraków' })
  const chunks = await all(await client.call({ tools, stream: true }))
  const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? [])
  const parts = calls.map((call) => call.function.arguments)
  assert.ok(parts.length > 1)
  assert.deepEqual(JSON.parse(parts.join('')), { city: 'Kraków' })
}

async function embeds() {
  // Without this field the package requests base64, which the fake provider does not support.
  const request = { model: SETUP.embedder, input: ['Hello', 'you'], encoding_format: 'float' }
  const answer = await new Client().api.embeddings.create(request)
  assert.deepEqual(answer.data.map((each) => each.embedding), Array(2).fill([0.25, -0.5, 0.125]))
  assert.equal(answer.usage.prompt_tokens, SETUP.input)
}

async function listsModels() {
  const listed = await all(new Client().api.models.list())
  assert.ok(listed.some((model) => model.id === SETUP.model))
}

async function breaksOff() {
  const stream = await new Client().call({ text: BREAK_OFF_PROMPT, stream: true })
  const error = await raises(OpenAI.APIError, () => all(stream))
  assert.equal(error.code, 'failed_by_plan')
}

async function completesWithTheBuiltInProvider() {
  const client = new Client('builtIn', SETUP.builtIn)
  const answer = await client.call()
  assert.ok(answer.choices[0].message.content)
  client.wire.reportUsage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
  assert.ok(await textOf(await client.call({ stream: true })))
  const request = { model: 'gpt-3.5-turbo-instruct', prompt: PROMPT, max_tokens: 5 }
  const { choices, usage } = await client.api.completions.create(request)
  assert.equal(choices[0].finish_reason, 'length')
  client.wire.reportUsage(usage.prompt_tokens, usage.completion_tokens)
  const chunks = await all(await client.api.completions.create({ ...request, stream: true }))
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), choices[0].text)
}

async function respondsWithTheBuiltInProvider() {
  const client = new Responding('builtIn', SETUP.builtIn)
  for (const [model, items] of [
    [SETUP.model, ['message']],
    ['gpt-5-mini', ['reasoning', 'message']],
  ]) {
    const whole = await client.call({ model })
    client.reportUsage(whole)
    const streamed = await client.api.responses.stream({ model, input: PROMPT }).finalResponse()
    client.reportUsage(streamed)
    for (const response of [whole, streamed]) {
      assert.deepEqual(response.output.map((item) => item.type), items)
      const thinks = response.usage.output_tokens_details.reasoning_tokens > 0
      assert.equal(thinks, items.includes('reasoning'))
    }
    assert.ok(whole.output_text)
    assert.equal(whole.output_text, streamed.output_text)
  }
  const { type, response } = (await all(await client.call({ bound: 16, stream: true }))).at(-1)
  assert.deepEqual([type, response.usage.output_tokens], ['response.incomplete', 16])
  client.reportUsage(response)
  const stream = await client.call({ text: '/breakoff', stream: true })
  const error = await raises(OpenAI.APIError, () => all(stream))
  assert.equal(error.type, 'service_unavailable')
}

async function callsFunctionsWithTheBuiltInProvider() {
  const client = new Responding('builtIn', SETUP.builtIn)
  const functions = [{ type: 'function', name: 'get_weather', parameters: { type: 'object' } }]
  const request = { tools: functions, tool_choice: 'required' }
  const stream = client.api.responses.stream({ model: SETUP.model, input: PROMPT, ...request })
  for (const { output } of [await stream.finalResponse(), await client.call(request)]) {
    const [call] = output
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ['get_weather', {}])
  }
}

async function countsAndModeratesWithTheBuiltInProvider() {
  const client = new Responding('builtIn', SETUP.builtIn)
  const request = { model: SETUP.model, input: PROMPT }
  const short = await client.api.responses.compact(request)
  assert.equal(short.output.at(-1).type, 'compaction')
  client.reportUsage(short)
  const counted = await client.api.responses.inputTokens.count(request)
  assert.equal(counted.input_tokens, short.usage.input_tokens)
  const { results } = await client.api.moderations.create({ input: [PROMPT, PROMPT] })
  assert.deepEqual(results.map((verdict) => verdict.flagged), [false, false])
  assert.equal(results[0].categories['self-harm/intent'], false)
}

await completes()
await callsTools()
await embeds()
await listsModels()
await breaksOff()
await completesWithTheBuiltInProvider()
await respondsWithTheBuiltInProvider()
await callsFunctionsWithTheBuiltInProvider()
await countsAndModeratesWithTheBuiltInProvider()
for (const [Kind, rows] of [
  [Client, REFUSALS],
  [Responding, forResponses],
]) {
  await checkRefusals('openai', (key) => new Kind(key), {
    kinds,
    code: (error) => {
      assert.ok(error.requestID, 'the id under which the call is logged')
      return error.code
    },
    limit: (error) => error.error.limit,
    retries: 2,
    rows,
  })
}
finish('openai')
