#!/usr/bin/env python3
"""Writes config/prices.toml from two independent sheets of facts about prices.

    config/prices/generate.py GENAI_PRICES.json LITELLM.json --as-of 2026-11-24

The first sheet wins, the second fills its gaps; report.py writes down where they differ and what was
not taken. Prices stay decimal text from end to end. The same input gives the same bytes.
"""

import argparse
import json
import pathlib
import re

import genai
import litellm
import report
import writer

HERE = pathlib.Path(__file__).resolve().parent
# Providers whose reasoning models do not show what they thought, though they bill it.
HIDING = {"openai", "azure", "google", "vertex", "x-ai"}
# Providers that refuse max_tokens for reasoning models.
RENAMING = {"openai", "azure"}
# Models that are too new for the second sheet, and are billed as those before them.
PLACES = {
    ("anthropic", "claude-fable-5-2"): {"us": "1.1"},
    ("anthropic", "claude-mythos-5-2"): {"us": "1.1"},
}


def filled(entry, states, facts, notes):
    """Puts what only the second sheet knows into the states of the first, noting differences."""
    where = (entry["provider"], entry["id"])
    for state in states:
        rows = state["rows"]
        for tier, theirs in sorted(facts["rows"].items()):
            if tier not in rows:
                if not agrees(rows["default"], facts["rows"]["default"], "outputTokens"):
                    continue
                if not agrees(rows["default"], facts["rows"]["default"], "inputTokens"):
                    continue
                rows[tier] = {above: overlaid(rows, above, row) for above, row in theirs.items()}
                notes.fill(where, tier, "all", "")
                continue
            for above in sorted(set(rows[tier]) | set(theirs)):
                mine, other = row_at(rows[tier], above), row_at(theirs, above)
                for unit in sorted(set(mine) & set(other)):
                    if mine[unit] != other[unit]:
                        notes.differ(where, tier, above, unit, mine[unit], other[unit])
            missing = set(theirs[0]) - set(rows[tier][0])
            for unit in sorted(unit for unit in missing if agrees(rows[tier], theirs, unit)):
                fill_unit(rows[tier], theirs, unit, lambda value: notes.fill(where, tier, unit, value))


def agrees(mine, theirs, unit):
    """Whether both have the same price for the whole that a unit is part of: the price of a part that
    goes with another total would be a mixture of two lists that never held together."""
    while unit in writer.TOTALS:
        unit = writer.TOTALS[unit]
    return unit not in mine[0] or mine[0][unit] == theirs[0].get(unit)


def overlaid(rows, above, row):
    """A row of a service tier holds every price; what it leaves out costs what it costs by default."""
    return {**row_at(rows["default"], above), **row}


def fill_unit(mine, theirs, unit, note):
    total = writer.TOTALS.get(unit)
    is_told = False
    for above in sorted(set(mine) | set(theirs)):
        value = row_at(theirs, above)[unit]
        mine.setdefault(above, dict(row_at(mine, above)))
        if total is not None and mine[above].get(total) == value:
            continue
        mine[above][unit] = value
        is_told = True
    if is_told:
        note(row_at(mine, 0).get(unit) or row_at(mine, max(mine))[unit])


def place(where, rows, places, notes):
    """Adds the tiers of what is served in a place: there every token costs so many times as much."""
    anywhere = sorted(rows.items())
    for name, times in sorted(places.items()):
        for tier, sizes in anywhere:
            placed = name if tier == "default" else f"{tier}-{name}"
            rows[placed] = {above: multiplied(row, times) for above, row in sizes.items()}
            notes.fill(where, placed, "all tokens", f"× {times}")


def multiplied(row, times):
    price = lambda unit: writer.text(writer.Decimal(row[unit]) * writer.Decimal(times))
    return {unit: price(unit) if unit.endswith("Tokens") else row[unit] for unit in row}


def row_at(rows, above):
    """The row that holds for inputs just above so many tokens."""
    return rows[max(start for start in rows if start <= above)]


def entry_of(provider, name, aliases, facts, context):
    """A model without its prices: what the second sheet says of it."""
    reasons = facts.get("reasons", False)
    embeds = any(word in name.lower() for word in ("embed", "bge-", "voyage-"))
    kind = facts.get("kind") or ("embeddings" if embeds else "chat")
    return {
        "provider": provider,
        "id": name,
        "aliases": sorted(aliases),
        "kind": kind,
        "max_input_tokens": facts.get("max_input") or context,
        "max_output_tokens": 0 if kind in ("embeddings", "moderation") else facts.get("max_output"),
        "hidden_output": reasons and provider in HIDING and kind == "chat",
        "output_field": "max_completion_tokens"
        if reasons and provider in RENAMING and kind == "chat"
        else None,
    }


def models_of(provider, own, other, notes, as_of):
    """All models of one provider: those of the first sheet, then what only the second has."""
    taken, found, ids = set(), [], {model["id"] for model in own}
    for model in own:
        names = [
            name for name in sorted(other) if name == model["id"]
            or (name not in ids and genai.first_match(own, name) is model)
        ]
        living = [name for name in names if not other[name]["retired"]]
        reason = genai.unusable(model) or ("is retired" if names and not living else None)
        if reason != genai.NO_PRICE:
            taken.update(names)
        if reason:
            notes.leave(provider, model["id"], reason)
            continue
        facts = other.get(model["id"]) if model["id"] in living else None
        facts = facts or (other[living[0]] if living else {})
        aliases = {name for name in living if other[name]["usable"]} | set(genai.equals(model["match"]))
        aliases -= {name for name in names if name not in living} | ids
        entry = entry_of(provider, model["id"], aliases, facts, genai.context(model))
        states = genai.states(model, as_of, notes)
        if facts.get("usable"):
            filled(entry, states, facts, notes)
        where = (provider, model["id"])
        if where in PLACES and not facts.get("places"):
            notes.skip(model["id"], "litellm does not know it yet: a place costs what it does of the models before")
        for state in states:
            place(where, state["rows"], facts.get("places") or PLACES.get(where, {}), notes)
        for name in living:
            if name != model["id"] and other[name]["usable"]:
                notes.compare((provider, name), states[0]["rows"], other[name]["rows"], row_at)
        found += [{**entry, **state} for state in states]
    for name in sorted(set(other) - taken):
        facts = other[name]
        if facts["retired"] or not facts["usable"]:
            notes.leave(provider, name, "is retired" if facts["retired"] else facts["why"])
            continue
        place((provider, name), facts["rows"], facts["places"], notes)
        found.append({**entry_of(provider, name, (), facts, None), "rows": facts["rows"]})
    return found


def make_whole(model, notes):
    """All that a model of images makes are images: without another price its output costs theirs."""
    for sizes in model["rows"].values():
        for row in sizes.values():
            if model["kind"] == "images" and "outputTokens" not in row and "outputImageTokens" in row:
                row["outputTokens"] = row.pop("outputImageTokens")
                notes.skip(model["id"], "output has the price of the images that it is")


def is_whole(model, notes):
    """Whether all that every call of its kind uses has a price; the rest is left out, and noted."""
    prices = model["rows"]["default"][0]
    needed = {"inputTokens", "outputTokens"} if model["kind"] in ("chat", "completion") else {"inputTokens"}
    by_the_piece = {"images", "audioSeconds", "characters"}
    is_right = needed <= set(prices) or (model["kind"] not in ("chat", "completion") and set(prices) <= by_the_piece)
    if not is_right:
        notes.leave(model["provider"], model["id"], "has a price for a part only of what its calls use")
    return is_right


def once(models):
    """No name may stand for two models of one provider: an id wins, then the first alias."""
    seen = {(model["provider"], model["id"]) for model in models}
    owners = {}
    for model in models:
        kept = []
        for alias in model["aliases"]:
            key = (model["provider"], alias)
            if key not in seen and owners.setdefault(key, model["id"]) == model["id"]:
                kept.append(alias)
        model["aliases"] = [alias for alias in kept if re.fullmatch(r"[!-~]{1,200}", alias)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("genai", type=pathlib.Path)
    arguments.add_argument("litellm", type=pathlib.Path)
    arguments.add_argument("--as-of", required=True, help="models retired by then are left out")
    asked = arguments.parse_args()
    read = lambda file: json.loads(file.read_text(), parse_float=str, parse_int=str)
    notes = report.Notes()
    first = {provider["id"]: provider["models"] for provider in read(asked.genai)}
    second = litellm.by_provider(read(asked.litellm), asked.as_of, notes)
    models = []
    for provider in sorted(set(first) | set(second)):
        models += models_of(provider, first.get(provider, []), second.get(provider, {}), notes, asked.as_of)
    models.sort(key=lambda model: (model["provider"], model["id"], model.get("effective_from", "")))
    for model in models:
        make_whole(model, notes)
    models = [model for model in models if is_whole(model, notes)]
    once(models)
    (HERE.parent / "prices.toml").write_text(writer.toml(models, asked.as_of))
    (HERE / "disagreements.md").write_text(notes.text(models, asked.as_of))


if __name__ == "__main__":
    main()
