"""The official `openai` package: completions, error classes and retries."""

import io
import json
import struct

import openai
from suite import BREAK_OFF_PROMPT, SETUP, KEYS, REFUSALS, PROMPT, Wire, check_idempotency, finish, raises, check_refusals

KINDS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    # The package has no separate class for these two.
    402: openai.APIStatusError,
    413: openai.APIStatusError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
}
# The gateway waits before it refuses a wallet on hold; one endpoint is enough for that case.
FOR_RESPONSES = [
    row | {"name": f"{row['name']}, for a response"} for row in REFUSALS if row.get("key") != "held"
]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


class Client:
    """The package with its default retries."""

    def __init__(self, key: str = "funded", url: str = SETUP["proxy"]) -> None:
        self.wire = Wire(key)
        http = openai.DefaultHttpxClient(event_hooks=self.wire.hooks)
        self.api = openai.OpenAI(
            api_key=KEYS[key], base_url=f"{url}/v1", http_client=http, timeout=30
        )

    def call(self, text: str = PROMPT, model: str = SETUP["model"], bound: int = 20, **more):
        messages = [{"role": "user", "content": text}]
        return self.api.chat.completions.create(
            model=model, messages=messages, max_tokens=bound, **more
        )


class Responding(Client):
    """A client of the responses endpoint."""

    def call(self, text: str = PROMPT, model: str = SETUP["model"], bound: int | None = None, **more):
        return self.api.responses.create(
            model=model, input=text, max_output_tokens=bound, **more
        )

    def report_usage(self, response) -> None:
        self.wire.report_usage(response.usage.input_tokens, response.usage.output_tokens)


def text_of(stream) -> str:
    words, ends = [], []
    for chunk in stream:
        # A client that has not requested usage reads choices[0] of every chunk.
        words.append(chunk.choices[0].delta.content or "")
        ends.append(chunk.choices[0].finish_reason)
        assert chunk.usage is None, chunk
    assert ends[-1] in ("stop", "length"), ends
    return "".join(words)


def is_usage(usage) -> None:
    reported = (usage.prompt_tokens, usage.completion_tokens)
    assert reported == (SETUP["input"], SETUP["output"]), usage
    assert usage.total_tokens == SETUP["input"] + SETUP["output"], usage


def completes() -> None:
    client = Client()
    answer = client.call()
    assert answer.choices[0].message.content == SETUP["text"], answer
    is_usage(answer.usage)
    assert text_of(client.call(stream=True)) == SETUP["text"]
    *_, last = client.call(stream=True, stream_options={"include_usage": True})
    is_usage(last.usage)
    assert client.wire.attempts == 3, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    answer = client.call(tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather", answer
    assert json.loads(call.function.arguments) == {"city": "Kraków"}, answer
    assert answer.choices[0].finish_reason == "tool_calls", answer
    parts = []
    for chunk in client.call(tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            parts.append(call.function.arguments)
    assert len(parts) > 1 and json.loads("".join(parts)) == {"city": "Kraków"}, parts


def embeds() -> None:
    answer = Client().api.embeddings.create(model=SETUP["embedder"], input=["Hello", "you"])
    assert [each.embedding for each in answer.data] == [[0.25, -0.5, 0.125]] * 2, answer
    assert answer.usage.prompt_tokens == SETUP["input"], answer


def lists_models() -> None:
    listed = [model.id for model in Client().api.models.list()]
    assert SETUP["model"] in listed, listed


def breaks_off() -> None:
    stream = Client().call(text=BREAK_OFF_PROMPT, stream=True)
    error = raises(openai.APIError, lambda: list(stream))
    assert error.code == "failed_by_plan", error.body


def sound(seconds: int) -> io.BytesIO:
    """Silence in a WAV file, one byte a sample."""
    rate, samples = 8000, bytes([128]) * 8000 * seconds
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate, 1, 8)
    data = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    file = io.BytesIO(struct.pack("<4sI", b"RIFF", len(data)) + data)
    file.name = "sound.wav"
    return file


def makes_images_with_the_built_in_provider() -> None:
    api = Client("builtIn", SETUP["builtIn"]).api
    request = {"model": "gpt-image-1-mini", "prompt": "a cat", "size": "1024x1024", "quality": "low"}
    made = api.images.generate(n=2, **request)
    assert [image.b64_json[:4] for image in made.data] == ["iVBO"] * 2, made
    assert made.usage.output_tokens == 2 * 272, made.usage
    events = list(api.images.generate(stream=True, partial_images=1, **request))
    kinds = ["image_generation.partial_image", "image_generation.completed"]
    assert [event.type for event in events] == kinds, events
    assert events[-1].usage.output_tokens == 272, events[-1].usage
    images = [("a.png", b"png"), ("b.png", b"png")]
    edited = api.images.edit(image=images, **request)
    assert edited.usage.input_tokens_details.image_tokens == 100, edited.usage
    plain = api.images.generate(model="dall-e-3", prompt="a cat")
    assert len(plain.data) == 1 and plain.usage is None, plain


def speaks_and_transcribes_with_the_built_in_provider() -> None:
    api = Client("builtIn", SETUP["builtIn"]).api
    request = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": PROMPT * 10}
    with api.audio.speech.with_streaming_response.create(**request) as answer:
        pieces = list(answer.iter_bytes(1024))
    assert pieces[0][:4] == b"RIFF" and len(b"".join(pieces)) == 44 + 160 * len(PROMPT * 10)
    transcript = api.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(2))
    assert transcript.text and transcript.usage.input_tokens == 30, transcript
    transcript = api.audio.transcriptions.create(model="whisper-1", file=sound(2))
    assert transcript.usage.seconds == 3, transcript
    plain = api.audio.translations.create(
        model="whisper-1", file=sound(2), response_format="text"
    )
    assert plain.strip() == transcript.text, plain
    *_, done = api.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=sound(2), stream=True
    )
    assert done.type == "transcript.text.done" and done.usage.output_tokens > 0, done


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", SETUP["builtIn"])
    answer = client.call()
    assert answer.choices[0].message.content, answer
    client.wire.report_usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert text_of(client.call(stream=True))
    request = {"model": "gpt-3.5-turbo-instruct", "prompt": PROMPT, "max_tokens": 5}
    text = client.api.completions.create(**request)
    assert text.choices[0].text and text.choices[0].finish_reason == "length", text
    client.wire.report_usage(text.usage.prompt_tokens, text.usage.completion_tokens)
    chunks = client.api.completions.create(stream=True, **request)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text.choices[0].text


def responds_with_the_built_in_provider() -> None:
    client = Responding("builtIn", SETUP["builtIn"])
    for model, items in [(SETUP["model"], ["message"]), ("gpt-5-mini", ["reasoning", "message"])]:
        whole = client.call(model=model)
        client.report_usage(whole)
        with client.api.responses.stream(model=model, input=PROMPT) as stream:
            streamed = stream.get_final_response()
        client.report_usage(streamed)
        for response in (whole, streamed):
            assert [item.type for item in response.output] == items, response
            thinks = response.usage.output_tokens_details.reasoning_tokens > 0
            assert thinks == ("reasoning" in items), response.usage
        assert whole.output_text and whole.output_text == streamed.output_text, streamed
    *_, last = client.call(bound=16, stream=True)
    assert last.type == "response.incomplete" and last.response.usage.output_tokens == 16, last
    client.report_usage(last.response)
    stream = client.call(text="/breakoff", stream=True)
    assert raises(openai.APIError, lambda: list(stream)).type == "service_unavailable"


def calls_functions_with_the_built_in_provider() -> None:
    client = Responding("builtIn", SETUP["builtIn"])
    function = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    request = {"tools": [function], "tool_choice": "required"}
    with client.api.responses.stream(model=SETUP["model"], input=PROMPT, **request) as stream:
        streamed = stream.get_final_response()
    for response in (client.call(**request), streamed):
        [call] = response.output
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {}), response


def counts_and_moderates_with_the_built_in_provider() -> None:
    client = Responding("builtIn", SETUP["builtIn"])
    short = client.api.responses.compact(model=SETUP["model"], input=PROMPT)
    assert short.output[-1].type == "compaction", short
    client.report_usage(short)
    counted = client.api.responses.input_tokens.count(model=SETUP["model"], input=PROMPT)
    assert counted.input_tokens == short.usage.input_tokens, counted
    moderation = client.api.moderations.create(input=[PROMPT, PROMPT])
    assert [verdict.flagged for verdict in moderation.results] == [False, False], moderation
    assert moderation.results[0].categories.self_harm_intent is False, moderation


def status_and_code(error: openai.APIStatusError) -> tuple:
    assert error.request_id, "the id under which the call is logged"
    return error.status_code, error.code


completes()
calls_tools()
embeds()
lists_models()
breaks_off()
completes_with_the_built_in_provider()
responds_with_the_built_in_provider()
calls_functions_with_the_built_in_provider()
counts_and_moderates_with_the_built_in_provider()
makes_images_with_the_built_in_provider()
speaks_and_transcribes_with_the_built_in_provider()
check_idempotency(Client, KINDS, error_body=lambda error: error.body)
for client, rows in [(Client, REFUSALS), (Responding, FOR_RESPONSES)]:
    check_refusals(
        "openai",
        client,
        KINDS,
        status_and_code,
        limit=lambda error: error.body["limit"],
        retries=2,
        rows=rows,
    )
finish(f"openai {openai.__version__} (Python)")
