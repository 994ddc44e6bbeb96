//! Images: priced by their tokens or by the piece, asked for by JSON or by form, streamed or whole.

use std::time::Duration;

use crate::client::Request;
use crate::media::{FORM, Studio, form};
use crate::told::Told;
use crate::upstream::{Plan, Seen, Step};

const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";
const VARIATIONS: &str = "/v1/images/variations";

/// What the provider makes: so many images, and its report where it is one that reports.
fn images(count: usize, reports: bool) -> String {
    let image = r#"{"b64_json":"iVBO[{\\\"usage\\\":{","revised_prompt":"p"}"#;
    let usage = r#","usage":{"total_tokens":345,"input_tokens":73,"output_tokens":272,"input_tokens_details":{"text_tokens":13,"image_tokens":60}}"#;
    let data = vec![image; count].join(",");
    format!(r#"{{"created":1,"data":[{data}]{}}}"#, if reports { usage } else { "" })
}

/// 13 tokens of text, 60 of images, and 272 that were painted.
const REPORTED: i128 = 13 * 5_000 + 60 * 10_000 + 272 * 40_000;
const OF_DALL_E_3: i128 = 120_000_000;
const OF_DALL_E_2: i128 = 20_000_000;

/// Answers two images; `silent` models report no usage.
fn plan(seen: &Seen) -> Plan {
    Plan::json(200, images(2, seen.body.contains("gpt-image") && !seen.body.contains("silent")))
}

#[tokio::test(flavor = "multi_thread")]
async fn images_cost_what_their_tokens_cost_where_these_are_reported() {
    let studio = Studio::new(plan).await;
    let json = r#"{"model":"gpt-image-1","prompt":"a cat","n":2}"#;
    let fields = [("model", "gpt-image-1"), ("prompt", "a cat"), ("n", "2")];
    for path in [GENERATIONS, EDITS] {
        let answer = if path == EDITS {
            studio.form(path, &form(&fields, Some(("image[]", b"png")))).await
        } else {
            studio.json(path, json).await
        };
        assert_eq!(answer.status, 200);
        let id = answer.id();
        assert_eq!(answer.text().await, images(2, true));
        let log = studio.cost(&id, "usage", REPORTED).await;
        assert_eq!(log.at("usage.inputTokens").count(), 73, "{log}");
        assert_eq!(log.at("usage.inputImageTokens").count(), 60, "{log}");
        assert_eq!(log.at("usage.outputImageTokens").count(), 272, "{log}");
        assert_eq!(log.at("usage.images").count(), 0, "they have no price: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_priced_by_the_piece_are_counted_in_the_answer() {
    let studio = Studio::new(plan).await;
    let edit = br#"{"model":"dall-e-2","prompt":"p","images":[{"image_url":"data:,"}]}"#;
    let json = "application/json";
    let variation = form(&[("n", "3")], Some(("image", b"png")));
    for (path, kind, body, cost) in [
        (GENERATIONS, json, &br#"{"model":"dall-e-3","prompt":"p","n":5}"#[..], 2 * OF_DALL_E_3),
        (GENERATIONS, json, br#"{"prompt":"p","n":2}"#, 2 * OF_DALL_E_2),
        (EDITS, json, edit, 2 * OF_DALL_E_2),
        (VARIATIONS, FORM, &variation, 2 * OF_DALL_E_2),
    ] {
        let answer = studio.typed(path, kind, body).await;
        let id = answer.id();
        assert_eq!(answer.text().await, images(2, false));
        let log = studio.cost(&id, "estimate", cost).await;
        assert_eq!(log.at("usage.images").count(), 2, "{log}");
        assert_eq!(log.at("usage.inputTokens").count(), 0, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_whose_tokens_are_not_reported_cost_what_was_held() {
    let studio = Studio::new(|seen| plan(seen).but(0, Step::Stall)).await;
    let body =
        r#"{"model":"gpt-image-1","prompt":"silent","n":2,"size":"1024x1024","quality":"medium"}"#;
    let held = body.len() as i128 * 10_000 + 2 * 1_056 * 40_000;
    let request = Request::post(GENERATIONS, body).bearer(&studio.tenant.key);
    let proxy = studio.tenant.proxy.clone();
    let call = tokio::spawn(async move { request.send(&proxy).await });
    studio.upstream.reached(1).await;
    let holds = studio.tenant.holds().await;
    assert_eq!(holds[0].at("amount").nano(), held, "{holds:?}");
    studio.upstream.release();
    let answer = call.await.expect("an answer");
    let id = answer.id();
    answer.text().await;
    // No image was shown, so its input is text.
    let cost = body.len() as i128 * 5_000 + 2 * 1_056 * 40_000;
    studio.cost(&id, "estimate", cost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_images_costs_what_its_last_event_reports_however_long_that_is() {
    let image = "A".repeat(5 << 20);
    let stream = format!(
        "event: image_generation.partial_image\ndata: {{\"type\":\"image_generation.partial_image\",\
         \"b64_json\":\"AAAA\",\"partial_image_index\":0}}\n\nevent: image_generation.completed\n\
         data: {{\"type\":\"image_generation.completed\",\"b64_json\":\"{image}\",\"usage\":\
         {{\"input_tokens\":73,\"output_tokens\":272,\"total_tokens\":345,\
         \"input_tokens_details\":{{\"text_tokens\":13,\"image_tokens\":60}}}}}}\n\n"
    );
    let sent = stream.clone();
    let studio = Studio::new(move |_| {
        let pieces = sent.as_bytes().chunks(100_000).map(<[u8]>::to_vec);
        Plan::stream(pieces.collect::<Vec<_>>(), Duration::ZERO)
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"p","stream":true,"partial_images":1}"#;
    let answer = studio.json(GENERATIONS, body).await;
    let id = answer.id();
    assert_eq!(answer.text().await, stream);
    let log = studio.cost(&id, "usage", REPORTED).await;
    assert!(log.at("stream").is_true(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_is_whole_when_it_is_paid() {
    let done = "data: {\"type\":\"image_edit.completed\",\"b64_json\":\"A\",\"usage\":\
                {\"input_tokens\":0,\"output_tokens\":272}}";
    let studio = Studio::new(move |_| {
        let pieces = [done, "\n\n", ": the end\n\n"];
        Plan::stream(pieces, Duration::ZERO).but(2, Step::Stall)
    })
    .await;
    let fields = [("model", "gpt-image-1"), ("prompt", "p"), ("stream", "true")];
    let mut answer = studio.form(EDITS, &form(&fields, Some(("image", b"png")))).await;
    let mut came = Vec::new();
    while came.len() < done.len() {
        came.extend(answer.piece().await.expect("whole").expect("more"));
    }
    assert_eq!(came, done.as_bytes(), "the line goes on until the call is settled");
    studio.upstream.release();
    let id = answer.id();
    let (rest, whole) = answer.rest().await;
    assert_eq!((&rest[..], whole), (&b"\n\n: the end\n\n"[..], true));
    studio.cost(&id, "usage", 272 * 40_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_megabytes_of_an_image_reach_the_provider_as_they_are() {
    let studio = Studio::new(plan).await;
    let image = vec![b'x'; 20 << 20];
    let fields = [("prompt", "p"), ("model", "draw"), ("n", "2")];
    let sent = form(&fields, Some(("image", &image)));
    let answer = studio.form(EDITS, &sent).await;
    assert_eq!(answer.status, 200);
    let id = answer.id();
    answer.text().await;
    studio.cost(&id, "estimate", 2 * OF_DALL_E_3).await;
    let seen = studio.upstream.seen().remove(0);
    let there = [("prompt", "p"), ("model", "dall-e-3"), ("n", "2")];
    let expected = form(&there, Some(("image", &image)));
    assert!(seen.body.as_bytes() == expected, "only the name of the model is another");
    assert_eq!(seen.header("content-length"), Some(&*expected.len().to_string()));
    assert_eq!(seen.header("content-type"), Some(FORM));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_no_model_gets_the_one_that_the_provider_is_told() {
    let studio = Studio::new(plan).await;
    studio.json(GENERATIONS, r#"{"prompt":"p"}"#).await.text().await;
    studio.form(VARIATIONS, &form(&[], Some(("image", b"png")))).await.text().await;
    let seen = studio.upstream.seen();
    assert_eq!(seen[0].body, r#"{"model":"dall-e-2","prompt":"p"}"#);
    let named = "--edge\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\ndall-e-2\r\n";
    let plain = String::from_utf8(form(&[], Some(("image", b"png")))).expect("text");
    assert_eq!(seen[1].body, format!("{named}{plain}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_broken_is_refused_before_anyone_else_reads_it() {
    let studio = Studio::new(plan).await;
    let whole = form(&[("model", "dall-e-2"), ("prompt", "p")], Some(("image", b"png")));
    let text = String::from_utf8(whole.clone()).expect("text");
    let twice = form(&[("model", "dall-e-2"), ("model", "dall-e-3")], None);
    let listed = form(&[("model[]", "dall-e-2")], None);
    for (kind, body, says) in [
        ("multipart/form-data", whole.clone(), "no boundary"),
        ("multipart/form-data; boundary=", whole.clone(), "boundary"),
        ("multipart/form-data; boundary=other", whole.clone(), "begin"),
        (FORM, whole[..whole.len() - 15].to_vec(), "`image`, has no end"),
        (FORM, whole[..whole.len() - 4].to_vec(), "part 4"),
        (FORM, text.replace("; name=\"prompt\"", "").into(), "part 2 has no name"),
        (FORM, text.replace("name=\"prompt\"", "name=\"prompt").into(), "part 2"),
        (FORM, text.replace("\r\n\r\n", "\r\n").into(), "part 1"),
        (FORM, text.replace("\r\n", "\n").into(), "part 1"),
        (FORM, twice, "`model`"),
        (FORM, listed, "`model`"),
        (FORM, Vec::new(), "begin"),
        ("application/json", whole.clone(), "JSON"),
    ] {
        let told = Told::by(studio.typed(EDITS, kind, &body).await).await;
        let error = told.is(400, &["invalid_request"]);
        assert!(error.at("message").text().contains(says), "{says}: {error}");
    }
    for (path, kind) in [(GENERATIONS, FORM), (VARIATIONS, "application/json")] {
        let told = Told::by(studio.typed(path, kind, &whole).await).await;
        let error = told.is(400, &["invalid_request"]);
        assert!(error.at("message").text().contains("content-type"), "{error}");
    }
    let kept = r#"{"model":"dall-e-2","prompt":"p","images":[{"file_id":"f"}]}"#;
    let told = Told::by(studio.json(EDITS, kept).await).await;
    assert!(told.is(400, &["invalid_request"]).at("message").text().contains("`file_id`"));
    assert_eq!(studio.upstream.count(), 0);
    studio.tenant.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_or_is_cut_off_in_the_midst_of_an_image_pays_for_it() {
    let studio = Studio::new(|seen| {
        let whole = images(1, true);
        let (one, other) = whole.split_at(30);
        let plan = Plan::stream([one.to_owned(), other.to_owned()], Duration::ZERO);
        let plan = Plan { headers: Plan::json(200, "").headers, ..plan };
        let plan = plan.but(1, Step::Stall);
        if seen.body.contains("cut") { plan.but(1, Step::Cut) } else { plan }
    })
    .await;
    let body = r#"{"model":"gpt-image-1","prompt":"cut","size":"1024x1024","quality":"low"}"#;
    let mut answer = studio.json(GENERATIONS, body).await;
    let id = answer.id();
    studio.upstream.release();
    assert!(!answer.rest().await.1, "it was cut");
    let log = studio.cost(&id, "estimate", body.len() as i128 * 5_000 + 272 * 40_000).await;
    assert_eq!(log.at("outcome").text(), "Failed", "{log}");

    studio.upstream.hold();
    let mut answer = studio.json(GENERATIONS, &body.replace("cut", "cat")).await;
    let id = answer.id();
    answer.piece().await.expect("whole").expect("a first piece");
    drop(answer);
    // The provider makes the image all the same: it is read on for what it reports.
    studio.upstream.release();
    let log = studio.cost(&id, "usage", REPORTED).await;
    assert_eq!(log.at("outcome").text(), "Cancelled", "{log}");
}
