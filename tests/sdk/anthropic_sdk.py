"""The official `anthropic` package, new and from before it sent keys as Bearer."""

import anthropic
from scene import BREAK_OFF, FACTS, KEYS, SAY, Wire, done_once, finish, raises, walk

BEARER = not anthropic.__version__.startswith("0.")
KINDS = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
    422: anthropic.UnprocessableEntityError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    502: anthropic.InternalServerError,
    529: anthropic._exceptions.OverloadedError,
}
if BEARER:
    KINDS[402] = anthropic.PaymentRequiredError
    KINDS[413] = anthropic.ContentTooLargeError
    KINDS[503] = anthropic.ServiceUnavailableError
else:
    KINDS[402] = anthropic.APIStatusError
    KINDS[413] = anthropic._exceptions.RequestTooLargeError
    KINDS[503] = anthropic.InternalServerError
TOOLS = [{"name": "get_weather", "input_schema": {"type": "object"}}]
MESSAGES = [{"role": "user", "content": SAY}]


class Client:
    """The package as it comes, with its own retries; `place` is where the key is given."""

    def __init__(
        self, key: str = "funded", url: str = FACTS["proxy"], place: str = "api_key"
    ) -> None:
        self.wire = Wire(key)
        http = anthropic.DefaultHttpxClient(event_hooks=self.wire.hooks)
        self.api = anthropic.Anthropic(
            **{place: KEYS[key]}, base_url=url, http_client=http, timeout=30
        )

    def ask(self, text: str = SAY, model: str = FACTS["model"], bound: int = 20, **more):
        messages = [{"role": "user", "content": text}]
        return self.api.messages.create(model=model, messages=messages, max_tokens=bound, **more)

    def stream(self, **more):
        return self.api.messages.stream(
            model=FACTS["model"], messages=MESSAGES, max_tokens=20, **more
        )


def is_whole(answer) -> None:
    assert [block.text for block in answer.content] == [FACTS["text"]], answer
    told = (answer.usage.input_tokens, answer.usage.output_tokens)
    assert told == (FACTS["input"], FACTS["output"]), answer
    assert answer.stop_reason == "end_turn", answer


def completes() -> None:
    client = Client()
    is_whole(client.ask())
    with client.stream() as stream:
        assert "".join(stream.text_stream) == FACTS["text"]
        is_whole(stream.get_final_message())
    kinds = [event.type for event in client.ask(stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
    assert client.wire.attempts == 3, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    with client.stream(tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    for answer in (client.ask(tools=TOOLS), streamed):
        [call] = answer.content
        assert (call.name, call.input) == ("get_weather", {"city": "Kraków"}), answer
        assert answer.stop_reason == "tool_use", answer


def counts() -> None:
    counted = Client().api.messages.count_tokens(model=FACTS["model"], messages=MESSAGES)
    assert counted.input_tokens == FACTS["input"], counted


def lists_models() -> None:
    listed = [model.id for model in Client().api.models.list()]
    assert FACTS["model"] in listed, listed


def takes_the_key_in_either_place() -> None:
    for place in ("api_key", "auth_token"):
        client = Client(place=place)
        is_whole(client.ask())
        as_bearer = BEARER or place == "auth_token"
        headers = client.wire.request.headers
        assert ("authorization" in headers, "x-api-key" in headers) == (as_bearer, not as_bearer)


def breaks_off() -> None:
    stream = Client().ask(text=BREAK_OFF, stream=True)
    error = raises(anthropic.APIStatusError, lambda: list(stream))
    assert error.status_code == 200, "the head of the answer was sent long before"
    assert error.body["error"]["type"] == "overloaded_error", error.body


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", FACTS["builtIn"])
    with client.stream() as stream:
        streamed = stream.get_final_message()
    for answer in (client.ask(), streamed):
        assert answer.content[0].text and answer.usage.output_tokens > 0, answer


def said(error: anthropic.APIStatusError) -> tuple:
    assert error.body["request_id"], "the id under which the call is logged"
    return error.status_code, error.body["error"]["type"]


completes()
calls_tools()
counts()
lists_models()
takes_the_key_in_either_place()
breaks_off()
completes_with_the_built_in_provider()
done_once(Client, KINDS, told=lambda error: error.body["error"])
walk(
    "anthropic",
    Client,
    KINDS,
    said,
    limit=lambda error: error.body["error"]["limit"],
    retries=2,
)
finish(f"anthropic {anthropic.__version__} (Python)")
