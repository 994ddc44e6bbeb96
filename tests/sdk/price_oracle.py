"""What each usage costs by the package genai-prices: an oracle that shares nothing with the gateway.

Its argument names a JSON file: a list of {provider, model, tier, usage}. On its last line it says,
for each, the cost in whole nano-units, rounded up, or why it has none. Of prices that hold for some
hours of the day the dearest counts, as in the price list.
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
    except (LookupError, ValueError, TypeError) as fault:
        return str(fault) or type(fault).__name__
    return int((price * 10**9).to_integral_value(ROUND_CEILING))


TODAY = datetime.now(timezone.utc)
with open(sys.argv[1]) as file:
    print(json.dumps([cost(call) for call in json.load(file)]))
