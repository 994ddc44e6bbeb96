"""The sheet of genai-prices: exact texts, tiers by input size, effective dates, variants."""

import re

from writer import Decimal, per

# Their unit, ours, how many of theirs make one for which our price is named.
UNITS = {
    "input_mtok": ("inputTokens", 1),
    "output_mtok": ("outputTokens", 1),
    "cache_read_mtok": ("cachedInputTokens", 1),
    "cache_write_mtok": ("cacheWriteTokens", 1),
    "cache_write_1h_mtok": ("cacheWrite1hTokens", 1),
    "cache_audio_read_mtok": ("cachedInputAudioTokens", 1),
    "cache_image_read_mtok": ("cachedInputImageTokens", 1),
    "input_audio_mtok": ("inputAudioTokens", 1),
    "output_audio_mtok": ("outputAudioTokens", 1),
    "input_image_mtok": ("inputImageTokens", 1),
    "output_image_mtok": ("outputImageTokens", 1),
    "output_reasoning_mtok": ("reasoningTokens", 1),
    "web_searches_kcount": ("webSearches", 1000),
    "audio_hours": ("audioSeconds", 3600),
    "input_audio_hours": ("audioSeconds", 3600),
    "input_mchars": ("characters", 1),
}
# What the gateway does not count: a model that bills it at every call is left out.
AT_EVERY_CALL = {
    "requests_kcount": "bills each request, which is no unit",
    "output_citation_mtok": "bills citations apart, which are no unit",
    "input_document_kpages": "bills pages, which are no unit",
    "input_text_messages_kcount": "bills messages, which are no unit",
    "output_video_mtok": "bills video that it makes, which is no unit",
}
# What is billed only at calls that ask for it: the price is not taken.
AT_SOME_CALLS = {
    "storage_searches_kcount": "searches of stored files are no unit",
    "input_video_mtok": "video is no unit: it is priced as other input",
    "input_annotated_document_kpages": "pages are no unit",
}
NO_PRICE = "has no price"
# Variants by which the rows of a service tier are told: its name stands in the answer.
TIER_KEYS = ("service_tier", "speed")


def is_match(clause, name):
    """Whether their rule takes a name; they compare without regard to case."""
    ((kind, what),) = clause.items()
    low = name.lower()
    if kind == "or_":
        return any(is_match(part, name) for part in what)
    if kind == "and_":
        return all(is_match(part, name) for part in what)
    if kind == "regex":
        return re.search(what, low) is not None
    what = what.lower()
    return {
        "equals": low == what,
        "starts_with": low.startswith(what),
        "ends_with": low.endswith(what),
        "contains": what in low,
    }[kind]


def first_match(models, name):
    return next((model for model in models if is_match(model["match"], name)), None)


def equals(clause):
    """The names that a rule spells out."""
    ((kind, what),) = clause.items()
    if kind == "or_":
        return [name for part in what for name in equals(part)]
    return [what] if kind == "equals" else []


def context(model):
    size = model.get("context_window")
    return int(size) if size else None


def conditions(model):
    prices = model["prices"]
    return prices if isinstance(prices, list) else [{"prices": prices}]


def unusable(model):
    """Why a model can not be in the catalog, or nothing."""
    if model.get("deprecated"):
        return "is retired"
    units = {unit for one in conditions(model) for unit in one["prices"]}
    for unit, reason in AT_EVERY_CALL.items():
        if unit in units:
            return reason
    if not any(unit in UNITS for unit in units):
        return NO_PRICE
    if "audio_hours" in units and "input_mtok" in units:
        return "bills seconds and tokens for the same sound"
    return None


def start(condition):
    return (condition.get("constraint") or {}).get("start_date", "")


def states(model, as_of, notes):
    """The prices in force at a day, then each later change of them."""
    every = conditions(model) + [
        variant for variant in model.get("price_variants") or [] if tier_of(variant["when"])
    ]
    changes = sorted({start(one) for one in every if as_of < start(one)})
    found = []
    for day in [as_of, *changes]:
        rows = rows_on(model, day, notes)
        if not found or found[-1]["rows"] != rows:
            found.append({"rows": rows} if day == as_of else {"rows": rows, "effective_from": day})
    return found


def rows_on(model, day, notes):
    base = priced_on(model, day, notes)
    rows = {"default": table(base, model, notes)}
    for variant in model.get("price_variants") or []:
        tier = tier_of(variant["when"])
        if tier is None:
            notes.skip(model["id"], "variant " + ", ".join(f"{k}={v}" for k, v in variant["when"].items()))
        elif start(variant) <= day and variant["prices"] and tier != "default":
            rows[tier] = table({**base, **variant["prices"]}, model, notes)
    return rows


def tier_of(when):
    """The service tier that a variant is about; none where it is about something else."""
    if len(when) != 1:
        return None
    ((key, value),) = when.items()
    return value if key in TIER_KEYS else None


def priced_on(model, day, notes):
    """The condition in force: the last whose day has come. Of hours of the day the dearest counts."""
    held = [one for one in conditions(model) if start(one) <= day]
    dated = [one for one in held if start(one) or not one.get("constraint")]
    hours = [one for one in held if "start_time" in (one.get("constraint") or {})]
    prices = dict(dated[-1]["prices"]) if dated else {}
    for one in hours:
        notes.skip(model["id"], "prices by the hour of the day; the dearest was taken for all")
        for unit, price in one["prices"].items():
            prices[unit] = max(prices.get(unit, price), price, key=dearness)
    return prices


def dearness(price):
    return Decimal(price["base"] if isinstance(price, dict) else price)


def table(prices, model, notes):
    """Full rows by size of the input: {0: {unit: price}, 200000: {…}}."""
    starts = {0}
    for price in prices.values():
        if isinstance(price, dict):
            starts.update(int(tier["start"]) for tier in price["tiers"])
    rows = {}
    for above in sorted(starts):
        row = {}
        for unit, price in sorted(prices.items()):
            if unit in UNITS:
                ours, count = UNITS[unit]
                row[ours] = per(price_at(price, above), count, lambda why: notes.skip(model["id"], why))
            else:
                notes.skip(model["id"], AT_SOME_CALLS[unit])
        rows[above] = row
    return rows


def price_at(price, above):
    if not isinstance(price, dict):
        return price
    held = [tier["price"] for tier in price["tiers"] if int(tier["start"]) <= above]
    return held[-1] if held else price["base"]
