//! Handwritten exchanges with unusual but valid bodies and streams: each passes unchanged, however
//! it is split, and is metered as its provider reports.

use crate::compression::ENCODINGS;
use crate::harness::exchange::{Exchange, ReplayMode};
use crate::harness::replay::ReplayGateway;

struct HandwrittenExchange {
    name: &'static str,
    target: &'static str,
    body: &'static str,
    status: u16,
    media_type: &'static str,
    /// Whether the lines of the answer end with CRLF.
    crlf: bool,
    answer: &'static str,
    /// Expected units in the request log; empty if the provider reports no usage.
    billed: &'static [(&'static str, u64)],
}

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages?beta=true";

const EXCHANGES: [HandwrittenExchange; 15] = [
    HandwrittenExchange {
        name: "thoughts, a tool, a cache and fields of tomorrow",
        target: MESSAGES,
        body: r#"{"model":"claude-a","max_tokens":64000,"stream":true,"thinking":{"type":"adaptive","of_tomorrow":[]},
  "system":[{"type":"text","text":"You are \"quoted\" \\ and \u00e9\ud83d\ude00","cache_control":{"type":"ephemeral","ttl":"1h"}}],
  "context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"metadata":{"user_id":"{\"device\":\"d\"}"},
  "tools":[{"name":"Edit","input_schema":{"type":"object","properties":{"stream":{"type":"boolean"},"model":{}}},"cache_control":{"type":"ephemeral"}}],
  "messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"a\nb","signature":"Eq+/=="},{"type":"redacted_thinking","data":"x"}]},
  {"role":"user","content":[{"type":"text","text":"  blanks\t"}]}],"output_config":{"effort":"high"},"unknown":1.50e+1}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: false,
        answer: r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-a","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_read_input_tokens":200,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":2,"service_tier":"standard"}}   }

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"data: [DONE]\n\nevent: message_stop"} }

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB+/=="}            }

event: block_of_tomorrow
data: {"type":"block_of_tomorrow","usage":{"output_tokens":99999}}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"Edit","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\" :\t\"\\u00e9\\\\"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":77,"output_tokens_details":{"thinking_tokens":40}},"context_management":{"applied_edits":[]}}

event: message_stop
data: {"type":"message_stop"       }

"#,
        billed: &[
            ("inputTokens", 240),
            ("outputTokens", 77),
            ("cachedInputTokens", 200),
            ("cacheWrite5mTokens", 20),
            ("cacheWrite1hTokens", 10),
            ("reasoningTokens", 40),
        ],
    },
    HandwrittenExchange {
        name: "a tool called with odd blanks and escapes",
        target: MESSAGES,
        body: r#"{ "max_tokens" : 9,"model":"claude-a" , "messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"C:\\dir\/x \u0022"}]}]}"#,
        status: 200,
        media_type: JSON,
        crlf: false,
        answer: r#" {"content" : [ {"type":"tool_use","id":"toolu_2","name":"Write","input": {"path" :"C:\\dir\/\u00e9", "n":1.0e+2,"big":123456789012345678901234567890,
  "usage":{"input_tokens":1,"output_tokens":1} ,"empty":{ }} } ] , "unknown":null,
  "usage" : { "input_tokens" :5 , "output_tokens": 6,"cache_read_input_tokens":null } }
"#,
        billed: &[("inputTokens", 5), ("outputTokens", 6)],
    },
    HandwrittenExchange {
        name: "an error in the midst of a stream",
        target: MESSAGES,
        body: r#"{"model":"claude-a","max_tokens":9,"stream":true,"messages":[]}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: false,
        answer: r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":10,"output_tokens":1}}}

event: error
data: {"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}  }

"#,
        billed: &[],
    },
    HandwrittenExchange {
        name: "line ends of the other kind",
        target: "/v1/messages",
        body: r#"{"model":"claude-a","max_tokens":9,"stream":true,"messages":[]}"#,
        status: 200,
        media_type: "text/event-stream",
        crlf: true,
        answer: r#"event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}

event: ping
data: {"type":"ping"}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}

event: message_stop
data: {"type":"message_stop"}

"#,
        billed: &[("inputTokens", 10), ("outputTokens", 3)],
    },
    HandwrittenExchange {
        name: "comments, ids, and data of several lines",
        target: MESSAGES,
        body: r#"{"model":"claude-a","max_tokens":9,"stream":true,"messages":[]}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: false,
        answer: r#": opened

retry: 3000
id:1
event:message_start
data:{"type":"message_start",
data:"message":{"usage":{"input_tokens":10,"output_tokens":1}}}

:

: data: {"type":"message_delta","usage":{"output_tokens":99}}
event: message_delta
: between the lines
data: {"type":"message_delta","delta":{},
data:  "usage":
data: {"output_tokens":4}}

data: {"type":"message_stop"}

: afterwards

"#,
        billed: &[("inputTokens", 10), ("outputTokens", 4)],
    },
    HandwrittenExchange {
        name: "an error about the request",
        target: MESSAGES,
        body: r#"{"model":"claude-a","max_tokens":9,"messages":[],"\u0073tray":[[]]}"#,
        status: 400,
        media_type: JSON,
        crlf: false,
        answer: r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 213462 tokens > 200000 maximum"},"request_id":"req_1"}"#,
        billed: &[],
    },
    HandwrittenExchange {
        name: "a stream whose usage nobody asked for but the gateway",
        target: CHAT,
        body: r#"{"model":"gpt-a","stream":true,"messages":[{"role":"user","content":"{\"stream_options\":null}"}]}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: false,
        answer: r#": PROCESSING

data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":"\"usage\":null"},"logprobs":null}],"usage":null,"obfuscation":"aB3"}

: PROCESSING

data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}

data: {"id":"1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":2}}}

data: [DONE]

"#,
        billed: &[
            ("inputTokens", 9),
            ("outputTokens", 4),
            ("cachedInputTokens", 8),
            ("reasoningTokens", 2),
        ],
    },
    HandwrittenExchange {
        name: "other options of a stream, and line ends of the other kind",
        target: CHAT,
        body: r#"{"stream_options":{"include_obfuscation":false},"stream":true,"model":"gpt-a","messages":[]}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: true,
        answer: r#"data: {"choices":[{"delta":{"content":"x"}}],"usage":null}

data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}

data: [DONE]

"#,
        billed: &[("inputTokens", 3), ("outputTokens", 1)],
    },
    HandwrittenExchange {
        name: "a stream whose usage the client asked for",
        target: "/v1/chat/completions?api-version=2024-12-01-preview",
        body: r#"{"model":"gpt-a","stream":true,"stream_options": {"include_usage" : true},"messages":[],"prompt_cache_key":"k","verbosity":"low"}"#,
        status: 200,
        media_type: "text/event-stream",
        crlf: false,
        answer: r#"data: {"choices":[{"delta":{"content":"x","reasoning_content":null}}],"usage":null}

data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":9}}

data: [DONE]

"#,
        billed: &[("inputTokens", 3), ("outputTokens", 6)],
    },
    HandwrittenExchange {
        name: "a chunk that is an error, and no terminator",
        target: CHAT,
        body: r#"{"model":"gpt-a","stream":true,"messages":[]}"#,
        status: 200,
        media_type: EVENT_STREAM,
        crlf: false,
        answer: r#"data: {"choices":[{"delta":{"content":"x"}}]}

event: error
data: {"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}

"#,
        billed: &[],
    },
    HandwrittenExchange {
        name: "an answer in print, with fields of tomorrow",
        target: CHAT,
        body: r#"{"model":"gpt-a","messages":[{"role":"tool","content":"\ud83d\ude00 \u007b","tool_call_id":"1"}],"n":1,"x_of_tomorrow":{"a":[{}]}}"#,
        status: 200,
        media_type: JSON,
        crlf: false,
        answer: r#"{
  "choices": [
    { "message": { "tool_calls": [ { "function": { "arguments": "{\"usage\": {\"prompt_tokens\": 1}}" } } ] } }
  ],
  "usage": {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "of_tomorrow": [ { } ]
  },
  "service_tier": "default"
}
"#,
        billed: &[("inputTokens", 12), ("outputTokens", 7)],
    },
    HandwrittenExchange {
        name: "an array that grows",
        target: "/v1beta/models/gemini-a:streamGenerateContent",
        body: r#"{"contents":[{"role":"user","parts":[{"text":"hi","thoughtSignature":"Es8C+/=="}]}],"of_tomorrow":{}}"#,
        status: 200,
        media_type: "application/json; charset=UTF-8",
        crlf: true,
        answer: r#"[{
  "candidates": [{"content": {"parts": [{"text": "a"}],"role": "model"},"index": 0}],
  "usageMetadata": {"promptTokenCount": 4,"totalTokenCount": 4}
}
,
{
  "candidates": [{"content": {"parts": [{"text": "]"}]},"finishReason": "STOP"}],
  "usageMetadata": {"promptTokenCount": 4,"candidatesTokenCount": 2,"thoughtsTokenCount": 5,"totalTokenCount": 11}
}
]
"#,
        billed: &[("inputTokens", 4), ("outputTokens", 7), ("reasoningTokens", 5)],
    },
    HandwrittenExchange {
        name: "events with the other line ends, and an error at last",
        target: "/v1beta/models/gemini-a:streamGenerateContent?alt=sse",
        body: r#"{"contents":[],"generationConfig":{"thinkingConfig":{"includeThoughts":true}}}"#,
        status: 200,
        media_type: "text/event-stream",
        crlf: true,
        answer: r#"data: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f","args": {}},"thoughtSignature": "Eq+/"}]}}],"usageMetadata": {"promptTokenCount": 8,"candidatesTokenCount": 3,"totalTokenCount": 11}}

data: {"error": {"code": 503,"message": "The model is overloaded.","status": "UNAVAILABLE"}}

"#,
        billed: &[],
    },
    HandwrittenExchange {
        name: "a whole answer of the third dialect",
        target: "/v1beta/models/gemini-a:generateContent?%24alt=json%3Benum-encoding%3Dint",
        body: r#"{"contents":[{"parts":[{"text":"hi"}]}],"safety_settings":[],"tools":[{"functionDeclarations":[]}]}"#,
        status: 200,
        media_type: "application/json; charset=UTF-8",
        crlf: false,
        answer: r#"{"candidates":[{"content":{"parts":[{"text":"\"usageMetadata\":{\"promptTokenCount\":1}"}]},"finishReason":1}],"usageMetadata":{"promptTokenCount":6,"cachedContentTokenCount":5,"candidatesTokenCount":2,"totalTokenCount":8},"of_tomorrow":null}"#,
        billed: &[("inputTokens", 6), ("outputTokens", 2), ("cachedInputTokens", 5)],
    },
    HandwrittenExchange {
        name: "numbers, and no words",
        target: "/v1/embeddings",
        body: r#"{"input":[[1,2],[3]],"model":"embed-a","encoding_format":"float","input_type":"query"}"#,
        status: 200,
        media_type: JSON,
        crlf: false,
        answer: r#"{"data":[{"embedding":[-0.001, 1e-05 ,0.0],"index":0}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#,
        billed: &[("inputTokens", 3), ("outputTokens", 0)],
    },
];

fn to_exchange(handwritten: &HandwrittenExchange) -> Exchange {
    let answer = handwritten.answer;
    Exchange {
        name: handwritten.name.to_owned(),
        target: handwritten.target.to_owned(),
        headers: vec![
            ("anthropic-version".to_owned(), "2023-06-01".to_owned()),
            ("anthropic-beta".to_owned(), "interleaved-thinking-2025-05-14,of-tomorrow".to_owned()),
            ("content-type".to_owned(), "application/json; charset=utf-8".to_owned()),
        ],
        body: handwritten.body.to_owned(),
        status: handwritten.status,
        response_headers: vec![
            ("content-type", handwritten.media_type.to_owned()),
            ("x-should-retry", "false".to_owned()),
        ],
        response_body: if handwritten.crlf {
            answer.replace('\n', "\r\n")
        } else {
            answer.to_owned()
        },
        encoding: ENCODINGS[answer.len() % ENCODINGS.len()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_valid_exchanges_pass_byte_for_byte_however_split() {
    // Each exchange twice, so that the second is split at other positions.
    let exchanges: Vec<Exchange> = EXCHANGES.iter().chain(&EXCHANGES).map(to_exchange).collect();
    let runs = (0..exchanges.len()).flat_map(|index| ReplayMode::ALL.map(|cut| (index, cut)));
    let gateway = ReplayGateway::start(exchanges.clone(), 1).await;
    let replayed = gateway.replay(runs).await;
    assert_eq!(replayed.len(), 2 * ReplayMode::ALL.len() * EXCHANGES.len());
    let logs = gateway.tenant.logs().await;
    let mut faults = Vec::new();
    for replay in replayed {
        let handwritten = &EXCHANGES[replay.exchange % EXCHANGES.len()];
        let describe = |fault: String| format!("{} {:?}: {fault}", handwritten.name, replay.mode);
        faults.extend(replay.differences.into_iter().map(describe));
        let log = logs.iter().find(|log| log.at("requestLogId").text() == replay.id);
        let usage = log.expect("the call is in the request log").at("usage");
        for (unit, wanted) in handwritten.billed {
            let got = usage.at(unit).count();
            if got != *wanted {
                faults.push(describe(format!("{unit} are {got}, billed were {wanted}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    gateway.tenant.assert_settled().await;
}
