//! Verdicts on the wire: whatever is said, nothing is wrong with it.

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

/// As many verdicts as were asked for.
pub fn results(asked: &DemoRequest<usize>) -> Reply {
    let verdict = json!({
        "flagged": false,
        "categories": for_each_category(&json!(false)),
        "category_scores": for_each_category(&json!(0)),
        "category_applied_input_types": for_each_category(&json!(["text"])),
    });
    let (id, results) = (format!("modr-{}", unique_id()), vec![verdict; asked.params]);
    let said = json!({"id": id, "model": asked.model, "results": results});
    Reply::complete(JSON, StatusCode::OK, said.to_string())
}

fn for_each_category(value: &Value) -> Map<String, Value> {
    CATEGORIES.into_iter().map(|category| (category.to_owned(), value.clone())).collect()
}
