//! Wire format of embeddings.

use http::StatusCode;
use serde::Serialize;

use crate::demo::reply::{JSON, Reply, to_json};
use crate::demo::request::DemoRequest;
use crate::demo::vector::{EmbeddingParams, base64, embed, reported_tokens};

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

/// Returns one vector per text.
pub fn list(request: &DemoRequest<EmbeddingParams>) -> Reply {
    let entry = |(index, text): (usize, &String)| {
        let numbers = embed(text, request.params.dimensions);
        let embedding = if request.params.as_base64 {
            Vector::Base64(base64(&numbers))
        } else {
            Vector::Numbers(numbers)
        };
        Entry { object: "embedding", index, embedding }
    };
    let list = List {
        object: "list",
        data: request.params.texts.iter().enumerate().map(entry).collect(),
        model: &request.model,
        usage: reported_tokens(request)
            .map(|used| Usage { prompt_tokens: used, total_tokens: used }),
    };
    Reply::complete(JSON, StatusCode::OK, to_json(&list))
}
