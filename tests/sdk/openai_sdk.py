"""The official `openai` package: what completes, what raises, what is retried."""

import io
import json
import struct

import openai
from scene import BREAK_OFF, FACTS, KEYS, REFUSALS, SAY, Wire, done_once, finish, raises, walk

KINDS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    # The package has no class of its own for these two.
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
# The gateway waits for a wallet on hold: to see that once is enough.
FOR_RESPONSES = [
    row | {"what": f"{row['what']}, for a response"} for row in REFUSALS if row.get("key") != "held"
]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


class Client:
    """The package as it comes, with its own retries."""

    def __init__(self, key: str = "funded", url: str = FACTS["proxy"]) -> None:
        self.wire = Wire(key)
        http = openai.DefaultHttpxClient(event_hooks=self.wire.hooks)
        self.api = openai.OpenAI(
            api_key=KEYS[key], base_url=f"{url}/v1", http_client=http, timeout=30
        )

    def ask(self, text: str = SAY, model: str = FACTS["model"], bound: int = 20, **more):
        messages = [{"role": "user", "content": text}]
        return self.api.chat.completions.create(
            model=model, messages=messages, max_tokens=bound, **more
        )


class Responding(Client):
    """The same, which asks for responses."""

    def ask(self, text: str = SAY, model: str = FACTS["model"], bound: int | None = None, **more):
        return self.api.responses.create(
            model=model, input=text, max_output_tokens=bound, **more
        )

    def tells(self, response) -> None:
        self.wire.tells(response.usage.input_tokens, response.usage.output_tokens)


def text_of(stream) -> str:
    words, ends = [], []
    for chunk in stream:
        # A client that did not ask for usage reads choices[0] of every chunk.
        words.append(chunk.choices[0].delta.content or "")
        ends.append(chunk.choices[0].finish_reason)
        assert chunk.usage is None, chunk
    assert ends[-1] in ("stop", "length"), ends
    return "".join(words)


def is_usage(usage) -> None:
    told = (usage.prompt_tokens, usage.completion_tokens)
    assert told == (FACTS["input"], FACTS["output"]), usage
    assert usage.total_tokens == FACTS["input"] + FACTS["output"], usage


def completes() -> None:
    client = Client()
    answer = client.ask()
    assert answer.choices[0].message.content == FACTS["text"], answer
    is_usage(answer.usage)
    assert text_of(client.ask(stream=True)) == FACTS["text"]
    *_, last = client.ask(stream=True, stream_options={"include_usage": True})
    is_usage(last.usage)
    assert client.wire.attempts == 3, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    answer = client.ask(tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather", answer
    assert json.loads(call.function.arguments) == {"city": "Kraków"}, answer
    assert answer.choices[0].finish_reason == "tool_calls", answer
    parts = []
    for chunk in client.ask(tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            parts.append(call.function.arguments)
    assert len(parts) > 1 and json.loads("".join(parts)) == {"city": "Kraków"}, parts


def embeds() -> None:
    answer = Client().api.embeddings.create(model=FACTS["embedder"], input=["Hello", "you"])
    assert [each.embedding for each in answer.data] == [[0.25, -0.5, 0.125]] * 2, answer
    assert answer.usage.prompt_tokens == FACTS["input"], answer


def lists_models() -> None:
    listed = [model.id for model in Client().api.models.list()]
    assert FACTS["model"] in listed, listed


def breaks_off() -> None:
    stream = Client().ask(text=BREAK_OFF, stream=True)
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
    api = Client("builtIn", FACTS["builtIn"]).api
    ask = {"model": "gpt-image-1-mini", "prompt": "a cat", "size": "1024x1024", "quality": "low"}
    made = api.images.generate(n=2, **ask)
    assert [image.b64_json[:4] for image in made.data] == ["iVBO"] * 2, made
    assert made.usage.output_tokens == 2 * 272, made.usage
    events = list(api.images.generate(stream=True, partial_images=1, **ask))
    kinds = ["image_generation.partial_image", "image_generation.completed"]
    assert [event.type for event in events] == kinds, events
    assert events[-1].usage.output_tokens == 272, events[-1].usage
    pictures = [("a.png", b"png"), ("b.png", b"png")]
    edited = api.images.edit(image=pictures, **ask)
    assert edited.usage.input_tokens_details.image_tokens == 100, edited.usage
    plain = api.images.generate(model="dall-e-3", prompt="a cat")
    assert len(plain.data) == 1 and plain.usage is None, plain


def speaks_and_listens_with_the_built_in_provider() -> None:
    api = Client("builtIn", FACTS["builtIn"]).api
    ask = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": SAY * 10}
    with api.audio.speech.with_streaming_response.create(**ask) as answer:
        pieces = list(answer.iter_bytes(1024))
    assert pieces[0][:4] == b"RIFF" and len(b"".join(pieces)) == 44 + 160 * len(SAY * 10)
    heard = api.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(2))
    assert heard.text and heard.usage.input_tokens == 30, heard
    heard = api.audio.transcriptions.create(model="whisper-1", file=sound(2))
    assert heard.usage.seconds == 3, heard
    plain = api.audio.translations.create(
        model="whisper-1", file=sound(2), response_format="text"
    )
    assert plain.strip() == heard.text, plain
    *_, done = api.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=sound(2), stream=True
    )
    assert done.type == "transcript.text.done" and done.usage.output_tokens > 0, done


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", FACTS["builtIn"])
    answer = client.ask()
    assert answer.choices[0].message.content, answer
    client.wire.tells(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert text_of(client.ask(stream=True))
    ask = {"model": "gpt-3.5-turbo-instruct", "prompt": SAY, "max_tokens": 5}
    text = client.api.completions.create(**ask)
    assert text.choices[0].text and text.choices[0].finish_reason == "length", text
    client.wire.tells(text.usage.prompt_tokens, text.usage.completion_tokens)
    chunks = client.api.completions.create(stream=True, **ask)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text.choices[0].text


def responds_with_the_built_in_provider() -> None:
    client = Responding("builtIn", FACTS["builtIn"])
    for model, items in [(FACTS["model"], ["message"]), ("gpt-5-mini", ["reasoning", "message"])]:
        whole = client.ask(model=model)
        client.tells(whole)
        with client.api.responses.stream(model=model, input=SAY) as stream:
            streamed = stream.get_final_response()
        client.tells(streamed)
        for response in (whole, streamed):
            assert [item.type for item in response.output] == items, response
            thinks = response.usage.output_tokens_details.reasoning_tokens > 0
            assert thinks == ("reasoning" in items), response.usage
        assert whole.output_text and whole.output_text == streamed.output_text, streamed
    *_, last = client.ask(bound=16, stream=True)
    assert last.type == "response.incomplete" and last.response.usage.output_tokens == 16, last
    client.tells(last.response)
    stream = client.ask(text="/breakoff", stream=True)
    assert raises(openai.APIError, lambda: list(stream)).type == "service_unavailable"


def calls_functions_with_the_built_in_provider() -> None:
    client = Responding("builtIn", FACTS["builtIn"])
    function = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    ask = {"tools": [function], "tool_choice": "required"}
    with client.api.responses.stream(model=FACTS["model"], input=SAY, **ask) as stream:
        streamed = stream.get_final_response()
    for response in (client.ask(**ask), streamed):
        [call] = response.output
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {}), response


def counts_and_judges_with_the_built_in_provider() -> None:
    client = Responding("builtIn", FACTS["builtIn"])
    short = client.api.responses.compact(model=FACTS["model"], input=SAY)
    assert short.output[-1].type == "compaction", short
    client.tells(short)
    counted = client.api.responses.input_tokens.count(model=FACTS["model"], input=SAY)
    assert counted.input_tokens == short.usage.input_tokens, counted
    judged = client.api.moderations.create(input=[SAY, SAY])
    assert [verdict.flagged for verdict in judged.results] == [False, False], judged
    assert judged.results[0].categories.self_harm_intent is False, judged


def said(error: openai.APIStatusError) -> tuple:
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
counts_and_judges_with_the_built_in_provider()
makes_images_with_the_built_in_provider()
speaks_and_listens_with_the_built_in_provider()
done_once(Client, KINDS, told=lambda error: error.body)
for client, rows in [(Client, REFUSALS), (Responding, FOR_RESPONSES)]:
    walk(
        "openai",
        client,
        KINDS,
        said,
        limit=lambda error: error.body["limit"],
        retries=2,
        rows=rows,
    )
finish(f"openai {openai.__version__} (Python)")
