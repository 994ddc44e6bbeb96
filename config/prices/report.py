"""What a person should look at: where the sheets differ, and what was not taken of them."""


class Notes:
    """Gathers; each thing once."""

    def __init__(self):
        self.differences = {}
        self.fills = {}
        self.left = {}
        self.skipped = {}

    def differ(self, where, tier, above, unit, taken, other):
        self.differences[(*where, tier, above, unit)] = (taken, other)

    def compare(self, where, mine, theirs, row_at):
        """Differences only: of another name of a model, its dated one."""
        for tier in sorted(set(mine) & set(theirs)):
            for above in sorted(set(mine[tier]) | set(theirs[tier])):
                ours, other = row_at(mine[tier], above), row_at(theirs[tier], above)
                for unit in sorted(set(ours) & set(other)):
                    if ours[unit] != other[unit]:
                        self.differ(where, tier, above, unit, ours[unit], other[unit])

    def fill(self, where, tier, unit, value):
        self.fills[(*where, tier, unit)] = value

    def leave(self, provider, name, reason):
        self.left.setdefault(reason, set()).add(f"{provider}/{name}")

    def skip(self, name, reason):
        self.skipped.setdefault(reason, set()).add(name)

    def text(self, models, as_of):
        providers = {model["provider"] for model in models}
        ids = {(model["provider"], model["id"]) for model in models}
        lines = [
            "# Where the sources of the price catalog differ",
            "",
            f"Written by `generate.py` with `prices.toml`: {len(ids)} models of {len(providers)} "
            f"providers as of {as_of}. On each difference the price of genai-prices was taken: it is "
            "kept as exact text, with tiers, dates and the page it was read from. What it does not "
            "say was filled from litellm. Per million, or per one of what is counted one by one.",
            "",
            f"## Differences ({len(self.differences)})",
            "",
            "| model | tier | input above | unit | taken: genai-prices | litellm |",
            "|---|---|--:|---|--:|--:|",
        ]
        for (provider, name, tier, above, unit), (taken, other) in sorted(self.differences.items()):
            lines.append(f"| {provider}/{name} | {tier} | {above} | {unit} | {taken} | {other} |")
        lines += ["", f"## Filled from litellm ({len(self.fills)})", ""]
        lines += ["| model | tier | unit | price |", "|---|---|---|--:|"]
        for (provider, name, tier, unit), value in sorted(self.fills.items()):
            lines.append(f"| {provider}/{name} | {tier} | {unit} | {value} |")
        lines += ["", "## Prices that were not taken, or not as they stand", ""]
        lines += sections(self.skipped)
        lines += ["## Models that were left out", ""]
        lines += sections(self.left)
        return "\n".join(lines).rstrip() + "\n"


def sections(reasons):
    lines = []
    for reason, names in sorted(reasons.items()):
        lines += [f"**{reason}** ({len(names)}): " + ", ".join(sorted(names)), ""]
    return lines
