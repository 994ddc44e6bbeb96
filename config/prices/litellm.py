"""The sheet of litellm: a flat row a model, in money for one token, with the tier in the name."""

import re
from decimal import Context

from writer import TOTALS, Decimal, text

PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "azure_ai": "azure",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "dashscope": "dashscope",
    "databricks": "databricks",
    "deepinfra": "deepinfra",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "groq": "groq",
    "hyperbolic": "hyperbolic",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "nebius": "nebius",
    "novita": "novita",
    "openai": "openai",
    "perplexity": "perplexity",
    "sambanova": "sambanova",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "vertex",
    "vertex_ai-anthropic_models": "vertex",
    "vertex_ai-embedding-models": "vertex",
    "vertex_ai-language-models": "vertex",
    "voyage": "voyageai",
    "xai": "x-ai",
    "zai": "zai",
}
KINDS = {
    "chat": "chat",
    "responses": "chat",
    "completion": "completion",
    "embedding": "embeddings",
    "moderation": "moderation",
    "image_generation": "images",
    "audio_transcription": "transcription",
    "audio_speech": "speech",
}
TOKENS = {
    "input_cost_per_token": "inputTokens",
    "output_cost_per_token": "outputTokens",
    "cache_read_input_token_cost": "cachedInputTokens",
    "input_cost_per_token_cache_hit": "cachedInputTokens",
    "cache_read_input_audio_token_cost": "cachedInputAudioTokens",
    "cache_read_input_image_token_cost": "cachedInputImageTokens",
    "cache_creation_input_token_cost": "cacheWriteTokens",
    "cache_creation_input_token_cost_above_1hr": "cacheWrite1hTokens",
    "input_cost_per_audio_token": "inputAudioTokens",
    "output_cost_per_audio_token": "outputAudioTokens",
    "input_cost_per_image_token": "inputImageTokens",
    "output_cost_per_image_token": "outputImageTokens",
    "output_cost_per_reasoning_token": "reasoningTokens",
}
KEY = re.compile(r"^(?P<unit>.+?)(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<tier>flex|priority))?$")
# Models of one name for each size of an image: the price would have to know what was asked.
BY_SIZE = re.compile(r"\d-x-\d")


def by_provider(sheet, as_of, notes):
    """{provider: {name: facts}}. Where two rows have one name, the one that says more counts."""
    found = {}
    for key, row in sheet.items():
        provider = PROVIDERS[row["litellm_provider"]]
        name = key
        for prefix in (row["litellm_provider"], row["litellm_provider"].split("-")[0], "text-completion-openai"):
            name = name.removeprefix(prefix + "/")
        facts = facts_of(name, row, as_of, notes)
        names = found.setdefault(provider, {})
        if name not in names or (facts["usable"], len(row)) > (names[name]["usable"], names[name]["size"]):
            names[name] = facts
    return found


def facts_of(name, row, as_of, notes):
    rows = prices(name, row, notes)
    why = unusable(name, row, rows)
    count = lambda key: int(Decimal(row[key])) if key in row else None
    return {
        "kind": KINDS.get(row["mode"]),
        "max_input": count("max_input_tokens") or None,
        "max_output": count("max_output_tokens"),
        # What every token costs as many times where the answer names that place.
        "places": {k: v for k, v in (row.get("provider_specific_entry") or {}).items() if k != "fast"},
        "reasons": bool(row.get("supports_reasoning")),
        "retired": row.get("deprecation_date", "9999") <= as_of,
        "rows": rows,
        "why": why,
        "usable": why is None,
        "size": len(row),
    }


def unusable(name, row, rows):
    """Why its prices can not be taken, or nothing."""
    if row["mode"] not in KINDS:
        return "is of a kind that is not served"
    if BY_SIZE.search(name) or name.startswith(("hd/", "standard/")):
        return "is a price by size and quality, not a model"
    if Decimal(row.get("input_cost_per_request", 0)):
        return "bills each request, which is no unit"
    if not rows["default"][0]:
        return "has no price that the gateway counts"
    if row["mode"] != "moderation" and not any(Decimal(price) for price in rows["default"][0].values()):
        return "costs nothing, which no other sheet confirms"
    return None


def prices(name, row, notes):
    """{tier: {above: {unit: price}}}, every row whole."""
    given = {}
    for key, price in row.items():
        parts = KEY.match(key)
        unit = TOKENS.get(parts["unit"])
        if unit is None or not isinstance(price, str):
            continue
        above = int(parts["above"] or 0) * 1000
        given.setdefault(parts["tier"] or "default", {}).setdefault(above, {})[unit] = million(price)
    for step in row.get("tiered_pricing") or []:
        above = int(Decimal(step["range"][0]))
        for key, unit in TOKENS.items():
            if isinstance(step.get(key), str):
                given.setdefault("default", {}).setdefault(above, {})[unit] = million(step[key])
    base = given.setdefault("default", {}).setdefault(0, {})
    base.update(pieces(name, row, base, notes))
    if base and "inputTokens" not in base and not set(base) & {"images", "audioSeconds", "characters"}:
        return {"default": {0: {}}}
    return whole(given)


def number(price):
    """Without the trail that a computation in binary left behind: 14 digits say every price."""
    return Context(prec=14).create_decimal(price)


def million(price):
    return text(number(price) * 1_000_000)


def pieces(name, row, base, notes):
    """What is priced by the piece."""
    found = {}
    skip = lambda why: notes.skip(name, why)
    search = row.get("search_context_cost_per_query")
    if search:
        sizes = {number(price) for price in search.values()}
        found["webSearches"] = text(max(sizes), skip)
        if 1 < len(sizes):
            skip("searches are priced by the size of their context; the dearest was taken")
    seconds = {number(row[key]) for key in ("input_cost_per_second", "output_cost_per_second") if key in row}
    seconds.discard(Decimal(0))
    if seconds and "inputTokens" in base:
        skip("seconds are priced besides tokens; the tokens were taken")
    elif seconds and row["mode"].startswith("audio"):
        found["audioSeconds"] = text(max(seconds), skip)
    if row["mode"] == "audio_speech" and "input_cost_per_character" in row and "inputTokens" not in base:
        found["characters"] = million(row["input_cost_per_character"])
    if row["mode"] == "image_generation" and "output_cost_per_image" in row and not base:
        found["images"] = text(number(row["output_cost_per_image"]), skip)
    return found


def whole(given):
    """Fills each row from the one it differs from: a size from the base, a tier from the default."""
    rows = {}
    for tier in ["default", *sorted(set(given) - {"default"})]:
        default = rows.get("default", {0: {}})
        starts = sorted(set(given[tier]) | set(default) | {0})
        rows[tier] = {}
        for above in starts:
            row = {}
            for held in (default, given[tier]):
                for start in sorted(held):
                    if start <= above:
                        row.update(held[start])
            rows[tier][above] = {unit: price for unit, price in row.items() if is_own(unit, price, row)}
    return rows


def is_own(unit, price, row):
    """Whether a part has a price of its own: one that is the same as its total's says nothing."""
    total = TOTALS.get(unit)
    return total is None or row.get(total) != price
