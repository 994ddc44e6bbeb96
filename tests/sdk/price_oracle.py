"""Computes the cost of usages with the package genai-prices, independently of the gateway.

The argument names a JSON file with a list of {provider, model, tier, usage}. The last output line is
a list with the cost of each in nano-units, rounded up, or the reason why it has none. If a price
depends on the hour of the day, the highest one counts, as in the price list.
"""

import json
import sys
from datetime import datetime, timezone
from decimal import ROUND_CEILING

from genai_prices import Usage, calc_price

UNITS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cachedInputTokens": "cache_read_tokens",
    "cachedInputAudioTokens": "cache_audio_read_tokens",
    "cachedInputImageTokens": "cache_image_read_tokens",
    "cacheWriteTokens": "cache_write_tokens",
    "cacheWrite1hTokens": "cache_write_1h_tokens",
    "inputAudioTokens": "input_audio_tokens",
    "inputImageTokens": "input_image_tokens",
    "reasoningTokens": "output_reasoning_tokens",
    "outputAudioTokens": "output_audio_tokens",
    "outputImageTokens": "output_image_tokens",
    "webSearches": "web_searches",
}


def cost(call):
    usage = {UNITS[unit]: count for unit, count in call["usage"].items() if unit in UNITS and count}
    context = {"service_tier": call["tier"]} if call["tier"] else None
    at = lambda hour: calc_price(
        Usage(**usage),
        call["model"],
        provider_id=call["provider"],
        genai_request_timestamp=TODAY.replace(hour=hour),
        price_context=context,
    )
    try:
        price = max(at(hour).total_price for hour in range(24))
    except (LookupError, ValueError, TypeError) as error:
        return str(error) or type(error).__name__
    return int((price * 10**9).to_integral_value(ROUND_CEILING))


TODAY = datetime.now(timezone.utc)
with open(sys.argv[1]) as file:
    print(json.dumps([cost(call) for call in json.load(file)]))
