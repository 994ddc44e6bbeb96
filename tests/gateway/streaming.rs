//! Streams reach the client as the provider sent them, and the cost matches the reported usage.

use std::time::{Duration, Instant};

use crate::harness::client::Request;
use crate::harness::demo::{Gateway, assert_within};
use crate::harness::json::Json;
use crate::harness::openai::{Usage, WORDS, chat, completion, events, reply};
use crate::harness::price::{GPT_4O, GPT_4O_MINI, O4_MINI, Price};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Step, Upstream};

const MODEL: &str = GPT_4O_MINI.model;
const USAGE: Usage = Usage { prompt: 1_234, completion: 567, cached: 1_000, reasoning: 64 };
const NO_PAUSE: Duration = Duration::ZERO;

struct Fixture {
    gateway: Gateway,
    upstream: Upstream,
    tenant: Tenant,
}

impl Fixture {
    async fn new(plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static) -> Self {
        let upstream = Upstream::start(plan).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        let tenant = Tenant::new(&gateway, 100_000_000_000, "{}").await;
        Self { gateway, upstream, tenant }
    }

    /// The response text for this body and the call's id.
    async fn call(&self, body: &str) -> (String, String) {
        let answer = Request::chat(&self.tenant.key, body).send(&self.gateway.proxy).await;
        let (status, id) = (answer.status, answer.id());
        let text = answer.text().await;
        assert_eq!(status, 200, "{text}");
        (text, id)
    }

    /// Asserts that debit and log match the expected cost exactly, without waiting after the
    /// response.
    async fn assert_cost(&self, id: &str, price: &Price, usage: Usage) {
        let cost = price.cost(usage);
        let debit = self.tenant.debit(id).await;
        assert_eq!(debit.at("amount").nano(), cost, "{usage:?}: {debit}");
        assert_eq!(debit.at("model").text(), price.model);
        assert_eq!(debit.at("settledBy").text(), "usage");
        assert_eq!(debit.at("projectId").text(), self.tenant.project);
        let log = self.tenant.log(id).await;
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        assert_eq!(log.at("outcome").text(), "Completed", "{log}");
        assert_eq!(log.at("settledBy").text(), "usage", "{log}");
        assert_eq!(log.at("status").count(), 200, "{log}");
        let logged = log.at("usage");
        for (unit, count) in [
            ("inputTokens", usage.prompt),
            ("cachedInputTokens", usage.cached),
            ("outputTokens", usage.completion),
            ("reasoningTokens", usage.reasoning),
        ] {
            assert_eq!(logged.at(unit).count(), count, "{unit}: {logged}");
        }
        self.tenant.assert_settled().await;
    }
}

fn stream_body(options: &str) -> String {
    format!(r#"{{"model":"{MODEL}","messages":[],"max_tokens":600,"stream":true{options}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_the_gateway_requested_is_hidden_from_the_client() {
    let fixture = Fixture::new(|seen| reply(seen, USAGE, NO_PAUSE)).await;
    for options in [
        "",
        r#","stream_options":{}"#,
        r#","stream_options":null"#,
        r#","stream_options":{"include_usage":false,"include_obfuscation":false}"#,
        r#","stream_options" : { "include_obfuscation" : false } , "user":"{}""#,
    ] {
        let (text, id) = fixture.call(&stream_body(options)).await;
        assert_eq!(text, events(WORDS, None).concat(), "without the usage event");
        let seen = fixture.upstream.requests().pop().expect("the call was forwarded");
        assert!(seen.is_set("stream_options.include_usage"), "{}", seen.body);
        let included = seen.json().find("stream_options.include_obfuscation").is_some();
        assert_eq!(included, options.contains("include_obfuscation"), "{}", seen.body);
        assert_eq!(seen.json().find("user").is_some(), options.contains("user"), "{}", seen.body);
        fixture.assert_cost(&id, &GPT_4O_MINI, USAGE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_requests_usage_receives_every_provider_byte() {
    let fixture = Fixture::new(|seen| reply(seen, USAGE, NO_PAUSE)).await;
    let body = stream_body(r#","stream_options":{"include_usage":true}"#);
    let (text, id) = fixture.call(&body).await;
    assert_eq!(text, events(WORDS, Some(USAGE)).concat());
    assert_eq!(fixture.upstream.requests()[0].body, body, "the body is forwarded unchanged");
    fixture.assert_cost(&id, &GPT_4O_MINI, USAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_call_passes_byte_for_byte_in_both_directions() {
    let fixture = Fixture::new(|seen| reply(seen, USAGE, NO_PAUSE)).await;
    let body = format!(
        "{{ \"messages\":[ {{\"role\":\"user\",\"content\":\"tö \\u00e9\"}} ],\n\t\"max_tokens\":600,\
         \"x\":{{\"model\":\"inside\",\"stream\":true}},\"model\":\"{MODEL}\",\"stream\":false }}"
    );
    let (text, id) = fixture.call(&body).await;
    assert_eq!(text, completion(USAGE));
    assert_eq!(fixture.upstream.requests()[0].body, body);
    fixture.assert_cost(&id, &GPT_4O_MINI, USAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_split_anywhere_yield_the_same_text_and_charge() {
    let fixture = Fixture::new(|seen| {
        let size = usize::try_from(seen.json().at("seed").count()).expect("a small size");
        let usage = seen.is_set("stream_options.include_usage").then_some(USAGE);
        let text = events(WORDS, usage).concat().into_bytes();
        let pieces: Vec<Vec<u8>> = text.chunks(size).map(<[u8]>::to_vec).collect();
        Plan::stream(pieces, Duration::from_micros(if size < 5 { 0 } else { 300 }))
    })
    .await;
    for size in [1, 2, 3, 5, 7, 64, 997, 100_000] {
        let (text, id) = fixture.call(&stream_body(&format!(",\"seed\":{size}"))).await;
        assert_eq!(text, events(WORDS, None).concat(), "in pieces of {size} bytes");
        fixture.assert_cost(&id, &GPT_4O_MINI, USAGE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crlf_comments_and_unknown_events_pass_unchanged() {
    let usage = r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}"#;
    let sent = [
        ": PROCESSING\r\n\r\n".to_owned(),
        "data: {\"choices\":[],\"prompt_filter_results\":[]}\r\n\r\n".to_owned(),
        "event: odd\r\nid: 7\r\nretry: 10\r\ndata:{\"choices\":[{\"delta\":{}}]}\r\n\r\n"
            .to_owned(),
        "data: {\"choices\":[{\"delta\":{\"usage\":null}}],\"x\":{\"usage\":null}}\r\n\r\n"
            .to_owned(),
        format!("data: {{\"choices\":[{{\"delta\":{{}}}}],\"usage\":{usage}}}\r\n\r\n"),
        "data: [DONE]\r\n\r\n".to_owned(),
    ];
    let events = sent.clone();
    let fixture = Fixture::new(move |_| Plan::stream(events.clone(), NO_PAUSE)).await;
    let (text, id) = fixture.call(&stream_body("")).await;
    assert_eq!(text, sent.concat(), "only a usage chunk and a null usage are removed");
    fixture.assert_cost(&id, &GPT_4O_MINI, Usage::of(5, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_usage_is_removed_at_any_position() {
    let fixture = Fixture::new(|_| {
        let mut sent = events(WORDS, Some(USAGE));
        sent.insert(0, "data: {\"usage\":null,\"choices\":[{\"delta\":{}}]}\n\n".to_owned());
        sent.insert(0, "data: {\"a\":[1], \"usage\" : null , \"choices\":[{}]}\n\n".to_owned());
        Plan::stream(sent, NO_PAUSE)
    })
    .await;
    let (text, _) = fixture.call(&stream_body("")).await;
    let (first, rest) = text.split_once("\n\n").expect("two events");
    let (second, rest) = rest.split_once("\n\n").expect("two events");
    for event in [first, second] {
        let json = Json::new(event.strip_prefix("data: ").expect("an event"));
        assert!(json.find("usage").is_none() && json.find("choices").is_some(), "{json}");
    }
    assert_eq!(rest, events(WORDS, None).concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_not_delayed_and_the_terminator_comes_last() {
    let fixture = Fixture::new(|seen| {
        let usage = seen.is_set("stream_options.include_usage").then_some(USAGE);
        Plan::stream(events(WORDS, usage), NO_PAUSE).insert_step(2, Step::Stall)
    })
    .await;
    let start = Instant::now();
    let request = Request::chat(&fixture.tenant.key, stream_body(""));
    let mut answer = request.send(&fixture.gateway.proxy).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let expected = events(WORDS, None);
    let (mut text, first_two) = (String::new(), expected[..2].concat());
    while text.len() < first_two.len() {
        let piece = answer.piece().await.expect("no cut").expect("more to come");
        text.push_str(std::str::from_utf8(&piece).expect("whole events"));
    }
    assert_eq!(text, first_two, "everything the provider has sent");
    assert_within(Duration::from_secs(2), start, Instant::now(), "the events so far");
    fixture.upstream.release();
    let (rest, whole) = answer.read_to_end().await;
    assert!(whole);
    text.push_str(std::str::from_utf8(&rest).expect("UTF-8"));
    assert_eq!(text, expected.concat());
    assert!(text.ends_with("data: [DONE]\n\n") && text.matches("[DONE]").count() == 1);
    fixture.assert_cost(&answer.id(), &GPT_4O_MINI, USAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cost_is_exact_to_the_nano() {
    let fixture = Fixture::new(|seen| {
        let counts: Vec<u64> = seen.json().at("seed").list().iter().map(Json::count).collect();
        let [prompt, completion, cached, reasoning] = counts[..] else { panic!("four counts") };
        reply(seen, Usage { prompt, completion, cached, reasoning }, NO_PAUSE)
    })
    .await;
    for price in [GPT_4O_MINI, GPT_4O, O4_MINI] {
        for [prompt, completion, cached, reasoning] in
            [[1, 1, 0, 0], [7, 1, 7, 1], [9, 0, 4, 0], [333, 777, 128, 700], [1_999, 999, 3, 998]]
        {
            for stream in [false, true] {
                let body = format!(
                    r#"{{"model":"{}","messages":[],"max_tokens":1000,"stream":{stream},"pad":"{}","seed":[{prompt},{completion},{cached},{reasoning}]}}"#,
                    price.model,
                    "x".repeat(2_000)
                );
                let (_, id) = fixture.call(&body).await;
                let usage = Usage { prompt, completion, cached, reasoning };
                fixture.assert_cost(&id, &price, usage).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_above_the_hold_is_charged_as_overage() {
    let usage = Usage::of(5_000, 600);
    let fixture = Fixture::new(move |seen| reply(seen, usage, NO_PAUSE)).await;
    let (_, id) = fixture.call(&chat(MODEL, 10, false)).await;
    let debit = fixture.tenant.debit(&id).await;
    assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(usage), "{debit}");
    assert!(debit.at("overage").is_true(), "{debit}");
    fixture.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_usage_is_charged_by_estimate() {
    let fixture = Fixture::new(|seen| {
        if seen.is_set("stream") {
            Plan::stream(events(WORDS, None), NO_PAUSE)
        } else {
            Plan::json(200, r#"{"choices":[{"message":{"content":"Hello there"}}]}"#)
        }
    })
    .await;
    for stream in [true, false] {
        let (_, id) = fixture.call(&chat(MODEL, 50, stream)).await;
        let debit = fixture.tenant.debit(&id).await;
        assert_eq!(debit.at("settledBy").text(), "estimate", "{debit}");
        assert!(debit.at("amount").nano() > 0, "{debit}");
        fixture.tenant.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_mid_stream_reaches_the_client_unchanged() {
    let error = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\",\
        \"param\":null,\"code\":\"c\"}}\n\n";
    let fixture = Fixture::new(move |_| {
        let mut sent: Vec<String> = events(WORDS, None).drain(..3).collect();
        sent.push(error.to_owned());
        Plan::stream(sent, NO_PAUSE)
    })
    .await;
    let (text, id) = fixture.call(&stream_body("")).await;
    assert_eq!(text, events(WORDS, None)[..3].concat() + error);
    assert_eq!(fixture.tenant.log(&id).await.at("settledBy").text(), "estimate");
    fixture.tenant.assert_settled().await;
}
