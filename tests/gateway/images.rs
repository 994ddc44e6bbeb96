//! Images: priced by their tokens or by the piece, asked for by JSON or by form, streamed or whole.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::media::{FORM_CONTENT_TYPE, MediaGateway, multipart_form};
use crate::harness::upstream::{Plan, ReceivedRequest, Step};

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";
const VARIATIONS: &str = "/v1/images/variations";

/// What the provider makes: so many images, and its report where it is one that reports.
fn images_body(count: usize, reports: bool) -> String {
    let image = r#"{"b64_json":"iVBO[{\\\"usage\\\":{","revised_prompt":"p"}"#;
    let usage = r#","usage":{"total_tokens":345,"input_tokens":73,"output_tokens":272,"input_tokens_details":{"text_tokens":13,"image_tokens":60}}"#;
    let data = vec![image; count].join(",");
    format!(r#"{{"created":1,"data":[{data}]{}}}"#, if reports { usage } else { "" })
}

/// 13 tokens of text, 60 of images, and 272 that were painted.
const REPORTED_COST: i128 = 13 * 5_000 + 60 * 10_000 + 272 * 40_000;
const DALL_E_3_COST: i128 = 120_000_000;
const DALL_E_2_COST: i128 = 20_000_000;

/// Answers two images; `silent` models report no usage.
fn plan(seen: &ReceivedRequest) -> Plan {
    Plan::json(
        200,
        images_body(2, seen.body.contains("gpt-image") && !seen.body.contains("silent")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn images_with_reported_tokens_are_charged_by_tokens() {
    let studio = MediaGateway::new(plan).await;
    let json = r#"{"model":"gpt-image-1","prompt":"a cat","n":2}"#;
    let fields = [("model", "gpt-image-1"), ("prompt", "a cat"), ("n", "2")];
    for path in [GENERATIONS, EDITS] {
        let answer = if path == EDITS {
            studio.post_form(path, &multipart_form(&fields, Some(("image[]", b"png")))).await
        } else {
            studio.post_json(path, json).await
        };
        assert_eq!(answer.status, 200);
        let id = answer.id();
        assert_eq!(answer.text().await, images_body(2, true));
        let log = studio.assert_cost(&id, "usage", REPORTED_COST).await;
        assert_eq!(log.at("usage.inputTokens").count(), 73, "{log}");
        assert_eq!(log.at("usage.inputImageTokens").count(), 60, "{log}");
        assert_eq!(log.at("usage.outputImageTokens").count(), 272, "{log}");
        assert_eq!(log.at("usage.images").count(), 0, "they have no price: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_priced_per_item_are_counted_in_the_response() {
    let studio = MediaGateway::new(plan).await;
    let edit = br#"{"model":"dall-e-2","prompt":"p","images":[{"image_url":"data:,"}]}"#;
    let json = "application/json";
    let variation = multipart_form(&[("n", "3")], Some(("image", b"png")));
    for (path, kind, body, cost) in [
        (GENERATIONS, json, &br#"{"model":"dall-e-3","prompt":"p","n":5}"#[..], 2 * DALL_E_3_COST),
        (GENERATIONS, json, br#"{"prompt":"p","n":2}"#, 2 * DALL_E_2_COST),
        (EDITS, json, edit, 2 * DALL_E_2_COST),
        (VARIATIONS, FORM_CONTENT_TYPE, &variation, 2 * DALL_E_2_COST),
    ] {
        let answer = studio.post(path, kind, body).await;
        let id = answer.id();
        assert_eq!(answer.text().await, images_body(2, false));
        let log = studio.assert_cost(&id, "estimate", cost).await;
        assert_eq!(log.at("usage.images").count(), 2, "{log}");
        assert_eq!(log.at("usage.inputTokens").count(), 0, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_reported_tokens_are_charged_by_estimate() {
    let studio = MediaGateway::new(|seen| plan(seen).insert_step(0, Step::Stall)).await;
    let body =
        r#"{"model":"gpt-image-1","prompt":"silent","n":2,"size":"1024x1024","quality":"medium"}"#;
    let held = body.len() as i128 * 10_000 + 2 * 1_056 * 40_000;
    let request = Request::post(GENERATIONS, body).bearer(&studio.tenant.key);
    let proxy = studio.tenant.proxy.clone();
    let call = tokio::spawn(async move { request.send(&proxy).await });
    studio.upstream.wait_for_requests(1).await;
    let holds = studio.tenant.holds().await;
    assert_eq!(holds[0].at("amount").nano(), held, "{holds:?}");
    studio.upstream.release();
    let answer = call.await.expect("an answer");
    let id = answer.id();
    answer.text().await;
    // No image was shown, so its input is text.
    let cost = body.len() as i128 * 5_000 + 2 * 1_056 * 40_000;
    studio.assert_cost(&id, "estimate", cost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_stream_is_charged_by_its_large_last_event() {
    let image = "A".repeat(5 << 20);
    let stream = format!(
        "event: image_generation.partial_image\ndata: {{\"type\":\"image_generation.partial_image\",\
         \"b64_json\":\"AAAA\",\"partial_image_index\":0}}\n\nevent: image_generation.completed\n\
         data: {{\"type\":\"image_generation.completed\",\"b64_json\":\"{image}\",\"usage\":\
         {{\"input_tokens\":73,\"output_tokens\":272,\"total_tokens\":345,\
         \"input_tokens_details\":{{\"text_tokens\":13,\"image_tokens\":60}}}}}}\n\n"
    );
    let sent = stream.clone();
    let studio = MediaGateway::new(move |_| {
        let pieces = sent.as_bytes().chunks(100_000).map(<[u8]>::to_vec);
        Plan::stream(pieces.collect::<Vec<_>>(), Duration::ZERO)
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"p","stream":true,"partial_images":1}"#;
    let answer = studio.post_json(GENERATIONS, body).await;
    let id = answer.id();
    assert_eq!(answer.text().await, stream);
    let log = studio.assert_cost(&id, "usage", REPORTED_COST).await;
    assert!(log.at("stream").is_true(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_is_completed_after_the_call_is_settled() {
    let done = "data: {\"type\":\"image_edit.completed\",\"b64_json\":\"A\",\"usage\":\
                {\"input_tokens\":0,\"output_tokens\":272}}";
    let studio = MediaGateway::new(move |_| {
        let pieces = [done, "\n\n", ": the end\n\n"];
        Plan::stream(pieces, Duration::ZERO).insert_step(2, Step::Stall)
    })
    .await;
    let fields = [("model", "gpt-image-1"), ("prompt", "p"), ("stream", "true")];
    let mut answer =
        studio.post_form(EDITS, &multipart_form(&fields, Some(("image", b"png")))).await;
    let mut came = Vec::new();
    while came.len() < done.len() {
        came.extend(answer.piece().await.expect("whole").expect("more"));
    }
    assert_eq!(came, done.as_bytes(), "the line goes on until the call is settled");
    studio.upstream.release();
    let id = answer.id();
    let (rest, whole) = answer.read_to_end().await;
    assert_eq!((&rest[..], whole), (&b"\n\n: the end\n\n"[..], true));
    studio.assert_cost(&id, "usage", 272 * 40_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_20_mb_image_reaches_the_provider_unchanged() {
    let studio = MediaGateway::new(plan).await;
    let image = vec![b'x'; 20 << 20];
    let fields = [("prompt", "p"), ("model", "draw"), ("n", "2")];
    let sent = multipart_form(&fields, Some(("image", &image)));
    let answer = studio.post_form(EDITS, &sent).await;
    assert_eq!(answer.status, 200);
    let id = answer.id();
    answer.text().await;
    studio.assert_cost(&id, "estimate", 2 * DALL_E_3_COST).await;
    let seen = studio.upstream.requests().remove(0);
    let there = [("prompt", "p"), ("model", "dall-e-3"), ("n", "2")];
    let expected = multipart_form(&there, Some(("image", &image)));
    assert!(seen.body.as_bytes() == expected, "only the name of the model is another");
    assert_eq!(seen.header("content-length"), Some(&*expected.len().to_string()));
    assert_eq!(seen.header("content-type"), Some(FORM_CONTENT_TYPE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_model_gets_the_default_model() {
    let studio = MediaGateway::new(plan).await;
    studio.post_json(GENERATIONS, r#"{"prompt":"p"}"#).await.text().await;
    studio.post_form(VARIATIONS, &multipart_form(&[], Some(("image", b"png")))).await.text().await;
    let seen = studio.upstream.requests();
    assert_eq!(seen[0].body, r#"{"model":"dall-e-2","prompt":"p"}"#);
    let named = "--edge\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ndall-e-2\r\n";
    let plain = String::from_utf8(multipart_form(&[], Some(("image", b"png")))).expect("text");
    assert_eq!(seen[1].body, format!("{named}{plain}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_form_is_refused_and_not_forwarded() {
    let studio = MediaGateway::new(plan).await;
    let whole = multipart_form(&[("model", "dall-e-2"), ("prompt", "p")], Some(("image", b"png")));
    let text = String::from_utf8(whole.clone()).expect("text");
    let twice = multipart_form(&[("model", "dall-e-2"), ("model", "dall-e-3")], None);
    let listed = multipart_form(&[("model[]", "dall-e-2")], None);
    for (kind, body, says) in [
        ("multipart/form-data", whole.clone(), "no boundary"),
        ("multipart/form-data; boundary=", whole.clone(), "boundary"),
        ("multipart/form-data; boundary=other", whole.clone(), "begin"),
        (FORM_CONTENT_TYPE, whole[..whole.len() - 15].to_vec(), "`image`, has no end"),
        (FORM_CONTENT_TYPE, whole[..whole.len() - 4].to_vec(), "part 4"),
        (FORM_CONTENT_TYPE, text.replace("; name=\"prompt\"", "").into(), "part 2 has no name"),
        (FORM_CONTENT_TYPE, text.replace("name=\"prompt\"", "name=\"prompt").into(), "part 2"),
        (FORM_CONTENT_TYPE, text.replace("\r\n\r\n", "\r\n").into(), "part 1"),
        (FORM_CONTENT_TYPE, text.replace("\r\n", "\n").into(), "part 1"),
        (FORM_CONTENT_TYPE, twice, "`model`"),
        (FORM_CONTENT_TYPE, listed, "`model`"),
        (FORM_CONTENT_TYPE, Vec::new(), "begin"),
        ("application/json", whole.clone(), "JSON"),
    ] {
        let told = FullResponse::read(studio.post(EDITS, kind, &body).await).await;
        let error = told.assert_error(400, &["invalid_request"]);
        assert!(error.at("message").text().contains(says), "{says}: {error}");
    }
    for (path, kind) in [(GENERATIONS, FORM_CONTENT_TYPE), (VARIATIONS, "application/json")] {
        let told = FullResponse::read(studio.post(path, kind, &whole).await).await;
        let error = told.assert_error(400, &["invalid_request"]);
        assert!(error.at("message").text().contains("content-type"), "{error}");
    }
    let kept = r#"{"model":"dall-e-2","prompt":"p","images":[{"file_id":"f"}]}"#;
    let told = FullResponse::read(studio.post_json(EDITS, kept).await).await;
    assert!(
        told.assert_error(400, &["invalid_request"]).at("message").text().contains("`file_id`")
    );
    assert_eq!(studio.upstream.request_count(), 0);
    studio.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_or_cut_during_an_image_is_charged() {
    let studio = MediaGateway::new(|seen| {
        let whole = images_body(1, true);
        let (one, other) = whole.split_at(30);
        let plan = Plan::stream([one.to_owned(), other.to_owned()], Duration::ZERO);
        let plan = Plan { headers: Plan::json(200, "").headers, ..plan };
        let plan = plan.insert_step(1, Step::Stall);
        if seen.body.contains("cut") { plan.insert_step(1, Step::Cut) } else { plan }
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"cut","size":"1024x1024","quality":"low"}"#;
    let mut answer = studio.post_json(GENERATIONS, body).await;
    let id = answer.id();
    studio.upstream.release();
    assert!(!answer.read_to_end().await.1, "it was cut");
    let log = studio.assert_cost(&id, "estimate", body.len() as i128 * 5_000 + 272 * 40_000).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");

    studio.upstream.stall_again();
    let mut answer = studio.post_json(GENERATIONS, &body.replace("cut", "cat")).await;
    let id = answer.id();
    answer.piece().await.expect("whole").expect("a first piece");
    drop(answer);
    // The provider makes the image all the same: it is read on for what it reports.
    studio.upstream.release();
    let log = studio.assert_cost(&id, "usage", REPORTED_COST).await;
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
}
