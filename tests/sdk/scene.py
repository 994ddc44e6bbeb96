"""What the Python suites share: the facts of the scene, what goes over the wire, what is raised.

Nothing here names a package. Nobody sleeps: what a package would wait is noted instead.
"""

import json
import pathlib
import sys
import time
from collections import Counter

FACTS = json.loads(sys.argv[1])
KEYS = FACTS["keys"]
REFUSALS = json.loads(pathlib.Path(__file__).with_name("refusals.json").read_text())
SAY = "Say hello."
BREAK_OFF = "Break off."

_pauses: list[float] = []
time.sleep = _pauses.append

_sent: Counter = Counter()
_forwarded = 0
_measured: list[tuple] = []
_told: list[dict] = []


class Wire:
    """What one client sends and gets, by hooks of its transport; `key` is a name of the scene."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.attempts = 0
        self.retry_after: list[float] = []
        self.request = None
        self.id = None
        self.hooks = {"request": [self._sends], "response": [self._receives]}

    def _sends(self, request) -> None:
        self.attempts += 1
        self.request = request
        _sent[self.key] += 1

    def _receives(self, response) -> None:
        global _forwarded
        self.id = response.headers.get("x-request-id")
        if "retry-after" in response.headers:
            self.retry_after.append(float(response.headers["retry-after"]))
        refused = response.headers.get("x-meteor-error-source") == "gateway"
        # The gateway lists models itself; 502 says that the provider was not reached; and another
        # one is built in.
        listed = response.request.method == "GET"
        away = response.status_code == 502
        if not (refused or listed or away or self.key == "builtIn"):
            _forwarded += 1

    def tells(self, input_tokens: int, output_tokens: int) -> None:
        """Notes the usage that the last answer told, which the request log has to have, too."""
        assert input_tokens > 0 and output_tokens > 0, (input_tokens, output_tokens)
        used = {"inputTokens": input_tokens, "outputTokens": output_tokens}
        _told.append({"requestLogId": self.id, "usage": used})


def raises(kind: type, call) -> Exception:
    try:
        call()
    except Exception as error:
        assert type(error) is kind, f"{type(error).__name__}, not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def refused(row: dict, client, kind: type, retries: int, obeys: bool = True) -> Exception:
    """Asks for one refusal: its class, how often it was asked for, and how long the pauses were.

    A package that `obeys` pauses as the gateway says; where nobody says anything, in its own way.
    """
    what, wire = row["what"], client.wire
    asked = {name: row[name] for name in ("text", "model", "bound") if name in row}
    if row.get("large"):
        asked["text"] = "x" * FACTS["bodyBytesMax"]
    _pauses.clear()
    error = raises(kind, lambda: client.ask(**asked))
    attempts = 1 + (retries if row.get("retried") else 0)
    assert wire.attempts == attempts, f"{what} was asked for {wire.attempts} times"
    assert len(_pauses) == attempts - 1, (what, _pauses)
    own_way = [None] * len(_pauses)
    for pause, told in zip(_pauses, (obeys and wire.retry_after) or own_way):
        assert pause == told if told else 0 < pause <= 10, (what, pause, told)
    told = f"{wire.retry_after[0]:g}" if wire.retry_after else "-"
    _measured.append((what, row["status"], kind.__name__, attempts, told, list(_pauses)))
    return error


def walk(dialect: str, new_client, kinds: dict, said, limit, retries: int, rows: list = REFUSALS) -> None:
    """All refusals of `rows` that this dialect has.

    `kinds` are the package's classes by status; `said` gives from an error the status and the word
    by which programs tell it from others, `limit` the limit that it names.
    """
    for row in rows:
        word = row["said"].get(dialect)
        if word is None:
            continue
        client = new_client(row.get("key", "funded"))
        error = refused(row, client, kinds[row["status"]], retries)
        assert said(error) == (row["status"], word), (row["what"], said(error), error)
        if row.get("limit"):
            assert limit(error)["limit"] == 0, (row["what"], error)


def done_once(new_client, kinds: dict, told) -> None:
    """A call with a key of its own is done once, and what is sent again is not asked for again.

    `told` gives from an error what the gateway says of the call that has the key.
    """
    own = {"extra_headers": {"Idempotency-Key": "once"}}
    new_client().ask(**own)
    for status, more in [(409, {}), (422, {"text": "Say goodbye."})]:
        client = new_client()
        error = raises(kinds[status], lambda: client.ask(**more, **own))
        assert client.wire.attempts == 1 and error.status_code == status, error
        call = told(error)
        assert call["requestLogId"] != error.response.headers["x-request-id"], call
        if status == 409:
            assert call["code"] == "already_executed" and call["call"]["status"] == 200, call
            assert call["call"]["usage"]["inputTokens"] == FACTS["input"], call


def finish(package: str) -> None:
    """Says what was measured, and on the last line what the other side of the scene checks."""
    for what, status, kind, attempts, told, pauses in _measured:
        waited = ", ".join(f"{pause:.2f}" for pause in pauses) or "-"
        print(f"| {package} | {what} | {status} | {kind} | {attempts} | {told} | {waited} |")
    print(json.dumps({"forwarded": _forwarded, "sent": _sent, "told": _told}))
