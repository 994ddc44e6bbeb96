"""Shared by the Python suites: the setup, the recording transport and the refusal checks.

Independent of the packages. `time.sleep` is replaced by a recorder of the pauses.
"""

import json
import pathlib
import sys
import time
from collections import Counter

SETUP = json.loads(sys.argv[1])
KEYS = SETUP["keys"]
REFUSALS = json.loads(pathlib.Path(__file__).with_name("refusals.json").read_text())
PROMPT = "Say hello."
BREAK_OFF_PROMPT = "Break off."

_pauses: list[float] = []
time.sleep = _pauses.append

_sent: Counter = Counter()
_forwarded = 0
_measured: list[tuple] = []
_reported: list[dict] = []


class Wire:
    """Records the requests and responses of one client; `key` is the name of a key in the setup."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.attempts = 0
        self.retry_after: list[float] = []
        self.request = None
        self.id = None
        self.hooks = {"request": [self._on_request], "response": [self._on_response]}

    def _on_request(self, request) -> None:
        self.attempts += 1
        self.request = request
        _sent[self.key] += 1

    def _on_response(self, response) -> None:
        global _forwarded
        self.id = response.headers.get("x-request-id")
        if "retry-after" in response.headers:
            self.retry_after.append(float(response.headers["retry-after"]))
        refused = response.headers.get("x-meteor-error-source") == "gateway"
        # Not forwarded to the test's provider: refusals, model lists (the gateway answers them), 502
        # (the provider was not reached) and calls of the built-in provider.
        is_list = response.request.method == "GET"
        unreachable = response.status_code == 502
        if not (refused or is_list or unreachable or self.key == "builtIn"):
            _forwarded += 1

    def report_usage(self, input_tokens: int, output_tokens: int) -> None:
        """Records the usage of the last response, which must equal that in the request log."""
        assert input_tokens > 0 and output_tokens > 0, (input_tokens, output_tokens)
        usage = {"inputTokens": input_tokens, "outputTokens": output_tokens}
        _reported.append({"requestLogId": self.id, "usage": usage})


def raises(kind: type, call) -> Exception:
    try:
        call()
    except Exception as error:
        assert type(error) is kind, f"{type(error).__name__}, not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def check_refusal(row: dict, client, kind: type, retries: int, obeys: bool = True) -> Exception:
    """Provokes one refusal and checks its class, the number of attempts and the pauses between them.

    A package that `obeys` pauses for `Retry-After`; without that header it backs off by its own rule.
    """
    name, wire = row["name"], client.wire
    request = {field: row[field] for field in ("text", "model", "bound") if field in row}
    if row.get("large"):
        request["text"] = "x" * SETUP["bodyBytesMax"]
    _pauses.clear()
    error = raises(kind, lambda: client.call(**request))
    attempts = 1 + (retries if row.get("retried") else 0)
    assert wire.attempts == attempts, f"{name}: {wire.attempts} attempts"
    assert len(_pauses) == attempts - 1, (name, _pauses)
    no_header = [None] * len(_pauses)
    for pause, retry_after in zip(_pauses, (obeys and wire.retry_after) or no_header):
        assert pause == retry_after if retry_after else 0 < pause <= 10, (name, pause, retry_after)
    retry_after = f"{wire.retry_after[0]:g}" if wire.retry_after else "-"
    _measured.append((name, row["status"], kind.__name__, attempts, retry_after, list(_pauses)))
    return error


def check_refusals(
    dialect: str, new_client, kinds: dict, status_and_code, limit, retries: int, rows: list = REFUSALS
) -> None:
    """Checks all refusals of `rows` that this dialect has.

    `kinds` are the package's error classes by status. `status_and_code` and `limit` read the status,
    the machine-readable code and the limit of an error.
    """
    for row in rows:
        code = row["expected"].get(dialect)
        if code is None:
            continue
        client = new_client(row.get("key", "funded"))
        error = check_refusal(row, client, kinds[row["status"]], retries)
        assert status_and_code(error) == (row["status"], code), (row["name"], error)
        if row.get("limit"):
            assert limit(error)["limit"] == 0, (row["name"], error)


def check_idempotency(new_client, kinds: dict, error_body) -> None:
    """Checks that a call with an idempotency key executes one time and is not retried by the package.

    `error_body` reads the error object, which describes the call that used the key.
    """
    key = {"extra_headers": {"Idempotency-Key": "key-1"}}
    new_client().call(**key)
    for status, more in [(409, {}), (422, {"text": "Say goodbye."})]:
        client = new_client()
        error = raises(kinds[status], lambda: client.call(**more, **key))
        assert client.wire.attempts == 1 and error.status_code == status, error
        body = error_body(error)
        assert body["requestLogId"] != error.response.headers["x-request-id"], body
        if status == 409:
            assert body["code"] == "already_executed" and body["call"]["status"] == 200, body
            assert body["call"]["usage"]["inputTokens"] == SETUP["input"], body


def finish(package: str) -> None:
    """Prints the measurements, and on the last line the summary that `sdk.rs` checks."""
    for name, status, kind, attempts, retry_after, pauses in _measured:
        waited = ", ".join(f"{pause:.2f}" for pause in pauses) or "-"
        print(f"| {package} | {name} | {status} | {kind} | {attempts} | {retry_after} | {waited} |")
    print(json.dumps({"forwarded": _forwarded, "sent": _sent, "reported": _reported}))
