"""The official `openai` package against a gateway: what completes, what raises, what is retried.

Run by tests/gateway/sdk.rs with the facts of its scene as one JSON argument.
"""

import json
import sys

import openai

FACTS = json.loads(sys.argv[1])
MESSAGES = [{"role": "user", "content": "Say hello."}]


class Client:
    """The package as it comes, with its own retries, and a count of what it sends."""

    def __init__(self, key: str, url: str = FACTS["proxy"], **more) -> None:
        self.attempts = 0
        counting = openai.DefaultHttpxClient(event_hooks={"request": [self._count]})
        self.api = openai.OpenAI(api_key=key, base_url=url, http_client=counting, timeout=30, **more)

    def _count(self, _request) -> None:
        self.attempts += 1

    def ask(self, model: str = "gpt-4o-mini", **more):
        return self.api.chat.completions.create(model=model, messages=MESSAGES, max_tokens=20, **more)


def raises(kind: type, status: int, client: Client, model: str = "gpt-4o-mini") -> openai.APIStatusError:
    try:
        client.ask(model)
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__}, not {kind.__name__}: {error}"
        assert error.status_code == status, error
        assert error.request_id, "the id under which the call is logged"
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def completes(client: Client) -> None:
    answer = client.ask()
    assert answer.choices[0].message.content, answer
    assert answer.usage.total_tokens > 0, answer
    words, ends = [], []
    for chunk in client.ask(stream=True):
        # A client that did not ask for usage reads choices[0] of every chunk.
        words.append(chunk.choices[0].delta.content or "")
        ends.append(chunk.choices[0].finish_reason)
        assert chunk.usage is None, chunk
    assert "".join(words), words
    assert ends[-1] in ("stop", "length"), ends
    assert client.attempts == 2, client.attempts


def main() -> None:
    completes(Client(FACTS["funded"]))
    completes(Client(FACTS["builtInKey"], FACTS["builtIn"]))

    listed = [model.id for model in Client(FACTS["funded"]).api.models.list()]
    assert "gpt-4o-mini" in listed, listed

    error = raises(openai.AuthenticationError, 401, Client("sk-mtr-wrong"))
    assert error.code == "invalid_api_key", error.body
    # The package has no class of its own for 402.
    poor = Client(FACTS["poor"])
    error = raises(openai.APIStatusError, 402, poor)
    assert error.code == "insufficient_balance", error.body
    assert poor.attempts == 1, poor.attempts
    raises(openai.PermissionDeniedError, 403, Client(FACTS["narrow"]))
    unknown = Client(FACTS["builtInKey"], FACTS["builtIn"])
    error = raises(openai.NotFoundError, 404, unknown, "no-such-model")
    assert error.code == "model_not_found", error.body

    spent = Client(FACTS["spent"])
    error = raises(openai.RateLimitError, 429, spent)
    assert error.code == "daily_requests_exceeded", error.body
    assert error.body["limit"]["limit"] == 0, error.body
    assert spent.attempts == 1, f"a daily limit was asked {spent.attempts} times"
    # Waiting for a minute would help, so the package may; the test need not.
    hurried = Client(FACTS["hurried"], max_retries=0)
    error = raises(openai.RateLimitError, 429, hurried)
    assert error.code == "requests_per_minute_exceeded", error.body


main()
