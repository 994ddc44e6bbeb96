// The official `openai` package for Node: what completes, what raises, what is retried.

import assert from 'node:assert/strict'
import { BREAK_OFF, FACTS, KEYS, REFUSALS, SAY, Wire, all, finish, need, raises, walk } from './scene.mjs'

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
// The gateway waits for a wallet on hold: to see that once is enough.
const forResponses = REFUSALS.filter((row) => row.key !== 'held').map((row) => ({
  ...row,
  what: `${row.what}, for a response`,
}))
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

/** The same, which asks for responses. */
class Responding extends Client {
  ask({ text = SAY, model = FACTS.model, bound, ...more } = {}) {
    return this.api.responses.create({ model, input: text, max_output_tokens: bound, ...more })
  }

  tells({ usage }) {
    this.wire.tells(usage.input_tokens, usage.output_tokens)
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
  assert.ok(answer.choices[0].message.content)
  client.wire.tells(answer.usage.prompt_tokens, answer.usage.completion_tokens)
  assert.ok(await textOf(await client.ask({ stream: true })))
  const asked = { model: 'gpt-3.5-turbo-instruct', prompt: SAY, max_tokens: 5 }
  const { choices, usage } = await client.api.completions.create(asked)
  assert.equal(choices[0].finish_reason, 'length')
  client.wire.tells(usage.prompt_tokens, usage.completion_tokens)
  const chunks = await all(await client.api.completions.create({ ...asked, stream: true }))
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), choices[0].text)
}

async function respondsWithTheBuiltInProvider() {
  const client = new Responding('builtIn', FACTS.builtIn)
  for (const [model, items] of [
    [FACTS.model, ['message']],
    ['gpt-5-mini', ['reasoning', 'message']],
  ]) {
    const whole = await client.ask({ model })
    client.tells(whole)
    const streamed = await client.api.responses.stream({ model, input: SAY }).finalResponse()
    client.tells(streamed)
    for (const response of [whole, streamed]) {
      assert.deepEqual(response.output.map((item) => item.type), items)
      const thinks = response.usage.output_tokens_details.reasoning_tokens > 0
      assert.equal(thinks, items.includes('reasoning'))
    }
    assert.ok(whole.output_text)
    assert.equal(whole.output_text, streamed.output_text)
  }
  const { type, response } = (await all(await client.ask({ bound: 16, stream: true }))).at(-1)
  assert.deepEqual([type, response.usage.output_tokens], ['response.incomplete', 16])
  client.tells(response)
  const stream = await client.ask({ text: '/breakoff', stream: true })
  const error = await raises(OpenAI.APIError, () => all(stream))
  assert.equal(error.type, 'service_unavailable')
}

async function callsFunctionsWithTheBuiltInProvider() {
  const client = new Responding('builtIn', FACTS.builtIn)
  const functions = [{ type: 'function', name: 'get_weather', parameters: { type: 'object' } }]
  const asked = { tools: functions, tool_choice: 'required' }
  const stream = client.api.responses.stream({ model: FACTS.model, input: SAY, ...asked })
  for (const { output } of [await stream.finalResponse(), await client.ask(asked)]) {
    const [call] = output
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ['get_weather', {}])
  }
}

async function countsAndJudgesWithTheBuiltInProvider() {
  const client = new Responding('builtIn', FACTS.builtIn)
  const asked = { model: FACTS.model, input: SAY }
  const short = await client.api.responses.compact(asked)
  assert.equal(short.output.at(-1).type, 'compaction')
  client.tells(short)
  const counted = await client.api.responses.inputTokens.count(asked)
  assert.equal(counted.input_tokens, short.usage.input_tokens)
  const { results } = await client.api.moderations.create({ input: [SAY, SAY] })
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
await countsAndJudgesWithTheBuiltInProvider()
for (const [Kind, rows] of [
  [Client, REFUSALS],
  [Responding, forResponses],
]) {
  await walk('openai', (key) => new Kind(key), {
    kinds,
    word: (error) => {
      assert.ok(error.requestID, 'the id under which the call is logged')
      return error.code
    },
    limit: (error) => error.error.limit,
    retries: 2,
    rows,
  })
}
finish('openai')
