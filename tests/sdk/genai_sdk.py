"""The official `google-genai` package: what completes, what raises, and that nothing is retried."""

import httpx2
from google import genai
from google.genai import errors, types
from scene import BREAK_OFF, FACTS, KEYS, REFUSALS, SAY, Wire, finish, raises, refused, walk

KINDS = {status: errors.ClientError for status in (400, 401, 402, 403, 404, 413, 429)}
KINDS |= {status: errors.ServerError for status in (500, 503)}
TOOLS = [
    types.Tool(function_declarations=[types.FunctionDeclaration(name="get_weather")]),
]


class Client:
    """The package as it comes, which does not retry; `retry_options` make it."""

    def __init__(self, key: str = "funded", url: str = FACTS["proxy"], **options) -> None:
        self.wire = Wire(key)
        self.http = httpx2.Client(event_hooks=self.wire.hooks, timeout=30)
        options = types.HttpOptions(base_url=url, httpx_client=self.http, **options)
        self.api = genai.Client(api_key=KEYS[key], http_options=options)

    def _asked(self, text: str = SAY, model: str = FACTS["model"], bound: int = 20, **more):
        config = types.GenerateContentConfig(max_output_tokens=bound, **more)
        return {"model": model, "contents": text, "config": config}

    def ask(self, **asked):
        return self.api.models.generate_content(**self._asked(**asked))

    def stream(self, **asked):
        return list(self.api.models.generate_content_stream(**self._asked(**asked)))


def is_usage(usage) -> None:
    told = (usage.prompt_token_count, usage.candidates_token_count)
    assert told == (FACTS["input"], FACTS["output"]), usage
    assert usage.total_token_count == FACTS["input"] + FACTS["output"], usage


def completes() -> None:
    client = Client()
    answer = client.ask()
    assert answer.text == FACTS["text"], answer
    is_usage(answer.usage_metadata)
    chunks = client.stream()
    assert "".join(chunk.text or "" for chunk in chunks) == FACTS["text"], chunks
    is_usage(chunks[-1].usage_metadata)
    assert client.wire.attempts == 2, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    for answer in (client.ask(tools=TOOLS), client.stream(tools=TOOLS)[0]):
        [call] = answer.function_calls
        assert (call.name, call.args) == ("get_weather", {"city": "Kraków"}), answer


def counts() -> None:
    counted = Client().api.models.count_tokens(model=FACTS["model"], contents=SAY)
    assert counted.total_tokens == FACTS["input"], counted


def embeds() -> None:
    texts = ["Hello", "you"]
    answer = Client().api.models.embed_content(model=FACTS["embedder"], contents=texts)
    assert [each.values for each in answer.embeddings] == [[0.25, -0.5, 0.125]] * 2, answer


def lists_models() -> None:
    listed = [model.name for model in Client().api.models.list()]
    assert f"models/{FACTS['model']}" in listed, listed


def takes_the_key_in_either_place() -> None:
    client = Client()
    assert client.ask().text == FACTS["text"]
    assert client.wire.request.headers["x-goog-api-key"] == KEYS["funded"]

    def in_the_query(request) -> None:
        key = request.headers.pop("x-goog-api-key")
        request.url = request.url.copy_merge_params({"key": key})

    client = Client()
    client.http.event_hooks["request"].append(in_the_query)
    assert client.ask().text == FACTS["text"]


def breaks_off() -> None:
    error = raises(errors.ServerError, lambda: Client().stream(text=BREAK_OFF))
    assert (error.code, error.status) == (503, "UNAVAILABLE"), error


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", FACTS["builtIn"])
    assert client.ask().text
    chunks = client.stream()
    assert any(chunk.text for chunk in chunks), chunks
    assert chunks[-1].usage_metadata.total_token_count > 0, chunks


def retries_a_daily_limit_when_told_to_retry() -> None:
    """Neither `x-should-retry` nor `Retry-After` reaches it: five attempts, pauses of its own."""
    for row in REFUSALS:
        if row.get("limit"):
            row = row | {"what": f"{row['what']}, retries asked for", "retried": True}
            client = Client(row["key"], retry_options=types.HttpRetryOptions())
            refused(row, client, errors.ClientError, retries=4, obeys=False)


completes()
calls_tools()
counts()
embeds()
lists_models()
takes_the_key_in_either_place()
breaks_off()
completes_with_the_built_in_provider()
walk(
    "gemini",
    Client,
    KINDS,
    said=lambda error: (error.code, error.status),
    limit=lambda error: error.details["error"]["limit"],
    retries=0,
)
retries_a_daily_limit_when_told_to_retry()
finish(f"google-genai {genai.__version__} (Python)")
