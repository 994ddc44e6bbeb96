//! Verdicts on the wire: whatever is said, nothing is wrong with it.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::demo::ask::Asked;
use crate::demo::reply::{JSON, Reply, opaque};

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
pub fn verdicts(asked: &Asked<usize>) -> Reply {
    let verdict = json!({
        "flagged": false,
        "categories": in_each_category(&json!(false)),
        "category_scores": in_each_category(&json!(0)),
        "category_applied_input_types": in_each_category(&json!(["text"])),
    });
    let (id, results) = (format!("modr-{}", opaque()), vec![verdict; asked.wish]);
    let said = json!({"id": id, "model": asked.model, "results": results});
    Reply::whole(JSON, StatusCode::OK, said.to_string())
}

fn in_each_category(value: &Value) -> Map<String, Value> {
    CATEGORIES.into_iter().map(|category| (category.to_owned(), value.clone())).collect()
}
