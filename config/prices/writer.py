"""Decimal text, and the file."""

from decimal import ROUND_UP, Decimal, getcontext

getcontext().prec = 60
# The unit that each unit is a part of.
TOTALS = {
    "cachedInputTokens": "inputTokens",
    "cachedInputAudioTokens": "cachedInputTokens",
    "cachedInputImageTokens": "cachedInputTokens",
    "cacheWriteTokens": "inputTokens",
    "cacheWrite1hTokens": "cacheWriteTokens",
    "inputAudioTokens": "inputTokens",
    "inputImageTokens": "inputTokens",
    "reasoningTokens": "outputTokens",
    "outputAudioTokens": "outputTokens",
    "outputImageTokens": "outputTokens",
}
ORDER = [
    "inputTokens", "outputTokens", "cachedInputTokens", "cachedInputAudioTokens",
    "cachedInputImageTokens", "cacheWriteTokens", "cacheWrite1hTokens", "inputAudioTokens", "inputImageTokens", "reasoningTokens", "outputAudioTokens",
    "outputImageTokens", "webSearches", "images", "audioSeconds", "characters",
]
NANO = Decimal("0.000000001")


def text(number, note=lambda why: None):
    """Plain decimal text of at most nine decimals; what is finer is rounded up, and noted."""
    whole = number.quantize(NANO, rounding=ROUND_UP)
    if whole != number:
        note("a price finer than nine decimals was rounded up")
    plain = f"{whole:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def per(price, count, note):
    """The price of one of what is priced by so many."""
    return text(Decimal(price) / count, note)


def quoted(value):
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def inline(prices):
    pairs = [f"{unit} = {quoted(prices[unit])}" for unit in ORDER if unit in prices]
    return "{ " + ", ".join(pairs) + " }"


def sizes(rows):
    """The rows of greater inputs, each on its line, where they differ from the row before."""
    lines, before = [], rows[0]
    for above in sorted(set(rows) - {0}):
        if rows[above] != before:
            lines.append(f"{{ above_input_tokens = {above}, prices = {inline(rows[above])} }}")
        before = rows[above]
    return lines


def block(model):
    lines = ["[[models]]", f"provider = {quoted(model['provider'])}", f"id = {quoted(model['id'])}"]
    if model["aliases"]:
        lines.append("aliases = [" + ", ".join(map(quoted, model["aliases"])) + "]")
    if "effective_from" in model:
        lines.append(f"effective_from = {quoted(model['effective_from'])}")
    lines.append(f"kind = {quoted(model['kind'])}")
    for key in ("max_input_tokens", "max_output_tokens"):
        if model[key] is not None:
            lines.append(f"{key} = {model[key]}")
    if model["output_field"]:
        lines.append(f"output_field = {quoted(model['output_field'])}")
    if model["hidden_output"]:
        lines.append("hidden_output = true")
    rows = model["rows"]
    lines.append(f"prices = {inline(rows['default'][0])}")
    tiers = sizes(rows["default"])
    if tiers:
        lines.append("tiers = [\n    " + ",\n    ".join(tiers) + ",\n]")
    named = []
    for name in sorted(set(rows) - {"default"}):
        inside = sizes(rows[name])
        tail = f", tiers = [{', '.join(inside)}]" if inside else ""
        named.append(f"{{ name = {quoted(name)}, prices = {inline(rows[name][0])}{tail} }}")
    if named:
        lines.append("service_tiers = [\n    " + ",\n    ".join(named) + ",\n]")
    return "\n".join(lines) + "\n"


HEAD = """\
# The price catalog: written by config/prices/generate.py, so change that and not this. Prices as of
# {as_of}, in USD per million, or per one of webSearches, images and audioSeconds.
# docs/prices.md says what each key means, config/prices/disagreements.md where the sources differ.
"""


def toml(models, as_of):
    return HEAD.format(as_of=as_of) + "".join("\n" + block(model) for model in models)
