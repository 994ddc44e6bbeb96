//! Wire format of moderation results. Nothing is ever flagged.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::demo::reply::{JSON, Reply, unique_id};
use crate::demo::request::DemoRequest;

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Returns one result per input.
pub fn results(request: &DemoRequest<usize>) -> Reply {
    let verdict = json!({
        "flagged": false,
        "categories": for_each_category(&json!(false)),
        "category_scores": for_each_category(&json!(0)),
        "category_applied_input_types": for_each_category(&json!(["text"])),
    });
    let (id, results) = (format!("modr-{}", unique_id()), vec![verdict; request.params]);
    let body = json!({"id": id, "model": request.model, "results": results});
    Reply::complete(JSON, StatusCode::OK, body.to_string())
}

fn for_each_category(value: &Value) -> Map<String, Value> {
    CATEGORIES.into_iter().map(|category| (category.to_owned(), value.clone())).collect()
}
