//! Vectors on the wire.

use http::StatusCode;
use serde::Serialize;

use crate::demo::ask::Asked;
use crate::demo::reply::{JSON, Reply, json};
use crate::demo::vector::{Texts, base64, used, vector};

#[derive(Debug, Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry>,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Debug, Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// A vector for each text.
pub fn list(asked: &Asked<Texts>) -> Reply {
    let entry = |(index, text): (usize, &String)| {
        let numbers = vector(text, asked.wish.dimensions);
        let embedding = if asked.wish.in_base64 {
            Vector::Base64(base64(&numbers))
        } else {
            Vector::Numbers(numbers)
        };
        Entry { object: "embedding", index, embedding }
    };
    let list = List {
        object: "list",
        data: asked.wish.texts.iter().enumerate().map(entry).collect(),
        model: &asked.model,
        usage: used(asked).map(|used| Usage { prompt_tokens: used, total_tokens: used }),
    };
    Reply::whole(JSON, StatusCode::OK, json(&list))
}
