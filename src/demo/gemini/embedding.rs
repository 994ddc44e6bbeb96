//! Vectors on the wire: of one text, or of several.

use http::StatusCode;
use serde::Serialize;

use crate::demo::ask::Asked;
use crate::demo::gemini::complaint::JSON;
use crate::demo::gemini::content::Modality;
use crate::demo::reply::{Reply, json};
use crate::demo::vector::{Texts, used, vector};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<T> {
    #[serde(flatten)]
    vectors: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_metadata: Option<Usage>,
}

#[derive(Debug, Serialize)]
struct One {
    embedding: Option<Vector>,
}

#[derive(Debug, Serialize)]
struct Several {
    embeddings: Vec<Vector>,
}

#[derive(Debug, Serialize)]
struct Vector {
    values: Vec<f32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    prompt_token_count: u64,
    /// Spelled like this here, and otherwise where contents are made.
    prompt_token_details: [Modality; 1],
}

fn vectors(asked: &Asked<Texts>) -> impl Iterator<Item = Vector> {
    let Texts { texts, dimensions, .. } = &asked.wish;
    texts.iter().map(|text| Vector { values: vector(text, *dimensions) })
}

fn reply(asked: &Asked<Texts>, vectors: impl Serialize) -> Reply {
    let usage =
        |used| Usage { prompt_token_count: used, prompt_token_details: [Modality::text(used)] };
    let response = Response { vectors, usage_metadata: used(asked).map(usage) };
    Reply::whole(JSON, StatusCode::OK, json(&response))
}

/// The vector of the only text.
pub fn one(asked: &Asked<Texts>) -> Reply {
    reply(asked, One { embedding: vectors(asked).next() })
}

/// The vectors of all texts.
pub fn several(asked: &Asked<Texts>) -> Reply {
    reply(asked, Several { embeddings: vectors(asked).collect() })
}
