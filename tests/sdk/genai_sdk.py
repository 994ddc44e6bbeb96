"""The official `google-genai` package: completions, error classes, and that nothing is retried."""

import httpx2
from google import genai
from google.genai import errors, types
from suite import (
    BREAK_OFF_PROMPT,
    KEYS,
    PROMPT,
    REFUSALS,
    SETUP,
    Wire,
    check_refusal,
    check_refusals,
    finish,
    raises,
)

KINDS = {status: errors.ClientError for status in (400, 401, 402, 403, 404, 413, 429)}
KINDS |= {status: errors.ServerError for status in (500, 503)}
TOOLS = [
    types.Tool(function_declarations=[types.FunctionDeclaration(name="get_weather")]),
]


class Client:
    """The package, which retries only with `retry_options`."""

    def __init__(self, key: str = "funded", url: str = SETUP["proxy"], **options) -> None:
        self.wire = Wire(key)
        self.http = httpx2.Client(event_hooks=self.wire.hooks, timeout=30)
        options = types.HttpOptions(base_url=url, httpx_client=self.http, **options)
        self.api = genai.Client(api_key=KEYS[key], http_options=options)

    def _arguments(self, text: str = PROMPT, model: str = SETUP["model"], bound: int = 20, **more):
        config = types.GenerateContentConfig(max_output_tokens=bound, **more)
        return {"model": model, "contents": text, "config": config}

    def call(self, **fields):
        return self.api.models.generate_content(**self._arguments(**fields))

    def stream(self, **fields):
        return list(self.api.models.generate_content_stream(**self._arguments(**fields)))


def is_usage(usage) -> None:
    reported = (usage.prompt_token_count, usage.candidates_token_count)
    assert reported == (SETUP["input"], SETUP["output"]), usage
    assert usage.total_token_count == SETUP["input"] + SETUP["output"], usage


def completes() -> None:
    client = Client()
    answer = client.call()
    assert answer.text == SETUP["text"], answer
    is_usage(answer.usage_metadata)
    chunks = client.stream()
    assert "".join(chunk.text or "" for chunk in chunks) == SETUP["text"], chunks
    is_usage(chunks[-1].usage_metadata)
    assert client.wire.attempts == 2, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    for answer in (client.call(tools=TOOLS), client.stream(tools=TOOLS)[0]):
        [call] = answer.function_calls
        assert (call.name, call.args) == ("get_weather", {"city": "Kraków"}), answer


def counts() -> None:
    counted = Client().api.models.count_tokens(model=SETUP["model"], contents=PROMPT)
    assert counted.total_tokens == SETUP["input"], counted


def embeds() -> None:
    texts = ["Hello", "you"]
    answer = Client().api.models.embed_content(model=SETUP["embedder"], contents=texts)
    assert [each.values for each in answer.embeddings] == [[0.25, -0.5, 0.125]] * 2, answer


def lists_models() -> None:
    listed = [model.name for model in Client().api.models.list()]
    assert f"models/{SETUP['model']}" in listed, listed


def accepts_the_key_in_header_and_query() -> None:
    client = Client()
    assert client.call().text == SETUP["text"]
    assert client.wire.request.headers["x-goog-api-key"] == KEYS["funded"]

    def in_the_query(request) -> None:
        key = request.headers.pop("x-goog-api-key")
        request.url = request.url.copy_merge_params({"key": key})

    client = Client()
    client.http.event_hooks["request"].append(in_the_query)
    assert client.call().text == SETUP["text"]


def breaks_off() -> None:
    error = raises(errors.ServerError, lambda: Client().stream(text=BREAK_OFF_PROMPT))
    assert (error.code, error.status) == (503, "UNAVAILABLE"), error


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", SETUP["builtIn"])
    assert client.call().text
    chunks = client.stream()
    assert any(chunk.text for chunk in chunks), chunks
    assert chunks[-1].usage_metadata.total_token_count > 0, chunks


def retries_a_daily_limit_with_retries_enabled() -> None:
    """The package ignores `x-should-retry` and `Retry-After`: five attempts with its own pauses."""
    for row in REFUSALS:
        if row.get("limit"):
            row = row | {"name": f"{row['name']}, with retries enabled", "retried": True}
            client = Client(row["key"], retry_options=types.HttpRetryOptions())
            check_refusal(row, client, errors.ClientError, retries=4, obeys=False)


completes()
calls_tools()
counts()
embeds()
lists_models()
accepts_the_key_in_header_and_query()
breaks_off()
completes_with_the_built_in_provider()
check_refusals(
    "gemini",
    Client,
    KINDS,
    status_and_code=lambda error: (error.code, error.status),
    limit=lambda error: error.details["error"]["limit"],
    retries=0,
)
retries_a_daily_limit_with_retries_enabled()
finish(f"google-genai {genai.__version__} (Python)")
