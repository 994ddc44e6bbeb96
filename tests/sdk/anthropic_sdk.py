"""The official `anthropic` package, current and from before it sent keys as Bearer."""

import anthropic
from suite import BREAK_OFF_PROMPT, SETUP, KEYS, PROMPT, Wire, check_idempotency, finish, raises, check_refusals

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
MESSAGES = [{"role": "user", "content": PROMPT}]


class Client:
    """The package with its default retries; `key_option` is the constructor argument of the key."""

    def __init__(
        self, key: str = "funded", url: str = SETUP["proxy"], key_option: str = "api_key"
    ) -> None:
        self.wire = Wire(key)
        http = anthropic.DefaultHttpxClient(event_hooks=self.wire.hooks)
        self.api = anthropic.Anthropic(
            **{key_option: KEYS[key]}, base_url=url, http_client=http, timeout=30
        )

    def call(self, text: str = PROMPT, model: str = SETUP["model"], bound: int = 20, **more):
        messages = [{"role": "user", "content": text}]
        return self.api.messages.create(model=model, messages=messages, max_tokens=bound, **more)

    def stream(self, **more):
        return self.api.messages.stream(
            model=SETUP["model"], messages=MESSAGES, max_tokens=20, **more
        )


def is_whole(answer) -> None:
    assert [block.text for block in answer.content] == [SETUP["text"]], answer
    reported = (answer.usage.input_tokens, answer.usage.output_tokens)
    assert reported == (SETUP["input"], SETUP["output"]), answer
    assert answer.stop_reason == "end_turn", answer


def completes() -> None:
    client = Client()
    is_whole(client.call())
    with client.stream() as stream:
        assert "".join(stream.text_stream) == SETUP["text"]
        is_whole(stream.get_final_message())
    kinds = [event.type for event in client.call(stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
    assert client.wire.attempts == 3, client.wire.attempts


def calls_tools() -> None:
    client = Client()
    with client.stream(tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    for answer in (client.call(tools=TOOLS), streamed):
        [call] = answer.content
        assert (call.name, call.input) == ("get_weather", {"city": "Kraków"}), answer
        assert answer.stop_reason == "tool_use", answer


def counts() -> None:
    counted = Client().api.messages.count_tokens(model=SETUP["model"], messages=MESSAGES)
    assert counted.input_tokens == SETUP["input"], counted


def lists_models() -> None:
    listed = [model.id for model in Client().api.models.list()]
    assert SETUP["model"] in listed, listed


def accepts_both_key_options() -> None:
    for key_option in ("api_key", "auth_token"):
        client = Client(key_option=key_option)
        is_whole(client.call())
        as_bearer = BEARER or key_option == "auth_token"
        headers = client.wire.request.headers
        assert ("authorization" in headers, "x-api-key" in headers) == (as_bearer, not as_bearer)


def breaks_off() -> None:
    stream = Client().call(text=BREAK_OFF_PROMPT, stream=True)
    error = raises(anthropic.APIStatusError, lambda: list(stream))
    assert error.status_code == 200, "the head of the answer was sent long before"
    assert error.body["error"]["type"] == "overloaded_error", error.body


def completes_with_the_built_in_provider() -> None:
    client = Client("builtIn", SETUP["builtIn"])
    with client.stream() as stream:
        streamed = stream.get_final_message()
    for answer in (client.call(), streamed):
        assert answer.content[0].text and answer.usage.output_tokens > 0, answer


def status_and_code(error: anthropic.APIStatusError) -> tuple:
    assert error.body["request_id"], "the id under which the call is logged"
    return error.status_code, error.body["error"]["type"]


completes()
calls_tools()
counts()
lists_models()
accepts_both_key_options()
breaks_off()
completes_with_the_built_in_provider()
check_idempotency(Client, KINDS, error_body=lambda error: error.body["error"])
check_refusals(
    "anthropic",
    Client,
    KINDS,
    status_and_code,
    limit=lambda error: error.body["error"]["limit"],
    retries=2,
)
finish(f"anthropic {anthropic.__version__} (Python)")
