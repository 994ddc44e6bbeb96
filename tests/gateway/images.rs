//! Image endpoints: priced by tokens or per image, requested by JSON or form, streamed or plain.

use std::time::Duration;

use crate::harness::client::Request;
use crate::harness::limit_assertions::FullResponse;
use crate::harness::media::{FORM_CONTENT_TYPE, MediaGateway, multipart_form};
use crate::harness::upstream::{Plan, ReceivedRequest, Step};

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";
const VARIATIONS: &str = "/v1/images/variations";

/// A response body with `count` images, and with usage if `reports`.
fn images_body(count: usize, reports: bool) -> String {
    let image = r#"{"b64_json":"iVBO[{\\\"usage\\\":{","revised_prompt":"p"}"#;
    let usage = r#","usage":{"total_tokens":345,"input_tokens":73,"output_tokens":272,"input_tokens_details":{"text_tokens":13,"image_tokens":60}}"#;
    let data = vec![image; count].join(",");
    format!(r#"{{"created":1,"data":[{data}]{}}}"#, if reports { usage } else { "" })
}

/// 13 tokens of text input, 60 of image input, and 272 of image output.
const REPORTED_COST: i128 = 13 * 5_000 + 60 * 10_000 + 272 * 40_000;
const DALL_E_3_COST: i128 = 120_000_000;
const DALL_E_2_COST: i128 = 20_000_000;

/// Returns two images; `gpt-image` models report usage unless the body contains `silent`.
fn plan(seen: &ReceivedRequest) -> Plan {
    Plan::json(
        200,
        images_body(2, seen.body.contains("gpt-image") && !seen.body.contains("silent")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn images_with_reported_tokens_are_charged_by_tokens() {
    let gateway = MediaGateway::new(plan).await;
    let json = r#"{"model":"gpt-image-1","prompt":"a cat","n":2}"#;
    let fields = [("model", "gpt-image-1"), ("prompt", "a cat"), ("n", "2")];
    for path in [GENERATIONS, EDITS] {
        let answer = if path == EDITS {
            gateway.post_form(path, &multipart_form(&fields, Some(("image[]", b"png")))).await
        } else {
            gateway.post_json(path, json).await
        };
        assert_eq!(answer.status, 200);
        let id = answer.id();
        assert_eq!(answer.text().await, images_body(2, true));
        let log = gateway.assert_cost(&id, "usage", REPORTED_COST).await;
        assert_eq!(log.at("usage.inputTokens").count(), 73, "{log}");
        assert_eq!(log.at("usage.inputImageTokens").count(), 60, "{log}");
        assert_eq!(log.at("usage.outputImageTokens").count(), 272, "{log}");
        assert_eq!(log.at("usage.images").count(), 0, "images have no price of their own: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_priced_per_item_are_counted_in_the_response() {
    let gateway = MediaGateway::new(plan).await;
    let edit = br#"{"model":"dall-e-2","prompt":"p","images":[{"image_url":"data:,"}]}"#;
    let json = "application/json";
    let variation = multipart_form(&[("n", "3")], Some(("image", b"png")));
    for (path, content_type, body, cost) in [
        (GENERATIONS, json, &br#"{"model":"dall-e-3","prompt":"p","n":5}"#[..], 2 * DALL_E_3_COST),
        (GENERATIONS, json, br#"{"prompt":"p","n":2}"#, 2 * DALL_E_2_COST),
        (EDITS, json, edit, 2 * DALL_E_2_COST),
        (VARIATIONS, FORM_CONTENT_TYPE, &variation, 2 * DALL_E_2_COST),
    ] {
        let answer = gateway.post(path, content_type, body).await;
        let id = answer.id();
        assert_eq!(answer.text().await, images_body(2, false));
        let log = gateway.assert_cost(&id, "estimate", cost).await;
        assert_eq!(log.at("usage.images").count(), 2, "{log}");
        assert_eq!(log.at("usage.inputTokens").count(), 0, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_reported_tokens_are_charged_by_estimate() {
    let gateway = MediaGateway::new(|seen| plan(seen).insert_step(0, Step::Stall)).await;
    let body =
        r#"{"model":"gpt-image-1","prompt":"silent","n":2,"size":"1024x1024","quality":"medium"}"#;
    let held = body.len() as i128 * 10_000 + 2 * 1_056 * 40_000;
    let request = Request::post(GENERATIONS, body).bearer(&gateway.tenant.key);
    let proxy = gateway.tenant.proxy.clone();
    let call = tokio::spawn(async move { request.send(&proxy).await });
    gateway.upstream.wait_for_requests(1).await;
    let holds = gateway.tenant.holds().await;
    assert_eq!(holds[0].at("amount").nano(), held, "{holds:?}");
    gateway.upstream.release();
    let answer = call.await.expect("an answer");
    let id = answer.id();
    answer.text().await;
    // The request contains no image, so its input is charged as text.
    let cost = body.len() as i128 * 5_000 + 2 * 1_056 * 40_000;
    gateway.assert_cost(&id, "estimate", cost).await;
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
    let gateway = MediaGateway::new(move |_| {
        let pieces = sent.as_bytes().chunks(100_000).map(<[u8]>::to_vec);
        Plan::stream(pieces.collect::<Vec<_>>(), Duration::ZERO)
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"p","stream":true,"partial_images":1}"#;
    let answer = gateway.post_json(GENERATIONS, body).await;
    let id = answer.id();
    assert_eq!(answer.text().await, stream);
    let log = gateway.assert_cost(&id, "usage", REPORTED_COST).await;
    assert!(log.at("stream").is_true(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_is_completed_after_the_call_is_settled() {
    let done = "data: {\"type\":\"image_edit.completed\",\"b64_json\":\"A\",\"usage\":\
                {\"input_tokens\":0,\"output_tokens\":272}}";
    let gateway = MediaGateway::new(move |_| {
        let pieces = [done, "\n\n", ": the end\n\n"];
        Plan::stream(pieces, Duration::ZERO).insert_step(2, Step::Stall)
    })
    .await;
    let fields = [("model", "gpt-image-1"), ("prompt", "p"), ("stream", "true")];
    let mut answer =
        gateway.post_form(EDITS, &multipart_form(&fields, Some(("image", b"png")))).await;
    let mut received = Vec::new();
    while received.len() < done.len() {
        received.extend(answer.piece().await.expect("whole").expect("more"));
    }
    assert_eq!(received, done.as_bytes(), "the event is held open until the call is settled");
    gateway.upstream.release();
    let id = answer.id();
    let (rest, whole) = answer.read_to_end().await;
    assert_eq!((&rest[..], whole), (&b"\n\n: the end\n\n"[..], true));
    gateway.assert_cost(&id, "usage", 272 * 40_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_20_mb_image_reaches_the_provider_unchanged() {
    let gateway = MediaGateway::new(plan).await;
    let image = vec![b'x'; 20 << 20];
    let fields = [("prompt", "p"), ("model", "draw"), ("n", "2")];
    let sent = multipart_form(&fields, Some(("image", &image)));
    let answer = gateway.post_form(EDITS, &sent).await;
    assert_eq!(answer.status, 200);
    let id = answer.id();
    answer.text().await;
    gateway.assert_cost(&id, "estimate", 2 * DALL_E_3_COST).await;
    let seen = gateway.upstream.requests().remove(0);
    let sent_fields = [("prompt", "p"), ("model", "dall-e-3"), ("n", "2")];
    let expected = multipart_form(&sent_fields, Some(("image", &image)));
    assert!(seen.body.as_bytes() == expected, "only the model name differs");
    assert_eq!(seen.header("content-length"), Some(&*expected.len().to_string()));
    assert_eq!(seen.header("content-type"), Some(FORM_CONTENT_TYPE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_model_gets_the_default_model() {
    let gateway = MediaGateway::new(plan).await;
    gateway.post_json(GENERATIONS, r#"{"prompt":"p"}"#).await.text().await;
    gateway.post_form(VARIATIONS, &multipart_form(&[], Some(("image", b"png")))).await.text().await;
    let seen = gateway.upstream.requests();
    assert_eq!(seen[0].body, r#"{"model":"dall-e-2","prompt":"p"}"#);
    let model_part = "--edge\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ndall-e-2\r\n";
    let remaining_form =
        String::from_utf8(multipart_form(&[], Some(("image", b"png")))).expect("text");
    assert_eq!(seen[1].body, format!("{model_part}{remaining_form}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_form_is_refused_and_not_forwarded() {
    let gateway = MediaGateway::new(plan).await;
    let form_body =
        multipart_form(&[("model", "dall-e-2"), ("prompt", "p")], Some(("image", b"png")));
    let text = String::from_utf8(form_body.clone()).expect("text");
    let two_models = multipart_form(&[("model", "dall-e-2"), ("model", "dall-e-3")], None);
    let model_list = multipart_form(&[("model[]", "dall-e-2")], None);
    for (content_type, body, expected_text) in [
        ("multipart/form-data", form_body.clone(), "no boundary"),
        ("multipart/form-data; boundary=", form_body.clone(), "boundary"),
        ("multipart/form-data; boundary=other", form_body.clone(), "begin"),
        (
            FORM_CONTENT_TYPE,
            form_body[..form_body.len() - 15].to_vec(),
            "`image`: no boundary follows",
        ),
        (FORM_CONTENT_TYPE, form_body[..form_body.len() - 4].to_vec(), "part 4"),
        (
            FORM_CONTENT_TYPE,
            text.replace("; name=\"prompt\"", "").into(),
            "part 2 of the form: the content-disposition has no name",
        ),
        (FORM_CONTENT_TYPE, text.replace("name=\"prompt\"", "name=\"prompt").into(), "part 2"),
        (FORM_CONTENT_TYPE, text.replace("\r\n\r\n", "\r\n").into(), "part 1"),
        (FORM_CONTENT_TYPE, text.replace("\r\n", "\n").into(), "part 1"),
        (FORM_CONTENT_TYPE, two_models, "`model`"),
        (FORM_CONTENT_TYPE, model_list, "`model`"),
        (FORM_CONTENT_TYPE, Vec::new(), "begin"),
        ("application/json", form_body.clone(), "JSON"),
    ] {
        let refusal = FullResponse::read(gateway.post(EDITS, content_type, &body).await).await;
        let error = refusal.assert_error(400, &["invalid_request"]);
        assert!(error.at("message").text().contains(expected_text), "{expected_text}: {error}");
    }
    for (path, content_type) in [(GENERATIONS, FORM_CONTENT_TYPE), (VARIATIONS, "application/json")]
    {
        let refusal = FullResponse::read(gateway.post(path, content_type, &form_body).await).await;
        let error = refusal.assert_error(400, &["invalid_request"]);
        assert!(error.at("message").text().contains("content-type"), "{error}");
    }
    let with_file_id = r#"{"model":"dall-e-2","prompt":"p","images":[{"file_id":"f"}]}"#;
    let refusal = FullResponse::read(gateway.post_json(EDITS, with_file_id).await).await;
    assert!(
        refusal.assert_error(400, &["invalid_request"]).at("message").text().contains("`file_id`")
    );
    assert_eq!(gateway.upstream.request_count(), 0);
    gateway.tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_or_cut_during_an_image_is_charged() {
    let gateway = MediaGateway::new(|seen| {
        let body = images_body(1, true);
        let (first_half, second_half) = body.split_at(30);
        let plan = Plan::stream([first_half.to_owned(), second_half.to_owned()], Duration::ZERO);
        let plan = Plan { headers: Plan::json(200, "").headers, ..plan };
        let plan = plan.insert_step(1, Step::Stall);
        if seen.body.contains("cut") { plan.insert_step(1, Step::Cut) } else { plan }
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"cut","size":"1024x1024","quality":"low"}"#;
    let mut answer = gateway.post_json(GENERATIONS, body).await;
    let id = answer.id();
    gateway.upstream.release();
    assert!(!answer.read_to_end().await.1, "the response was cut");
    let log = gateway.assert_cost(&id, "estimate", body.len() as i128 * 5_000 + 272 * 40_000).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");

    gateway.upstream.stall_again();
    let mut answer = gateway.post_json(GENERATIONS, &body.replace("cut", "cat")).await;
    let id = answer.id();
    answer.piece().await.expect("whole").expect("a first piece");
    drop(answer);
    // The provider creates the image anyway, so the gateway drains the response for its usage.
    gateway.upstream.release();
    let log = gateway.assert_cost(&id, "usage", REPORTED_COST).await;
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
}
