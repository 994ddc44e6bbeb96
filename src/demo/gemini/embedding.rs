//! Wire format of embeddings, single and batch.

use http::StatusCode;
use serde::Serialize;

use crate::demo::gemini::content::Modality;
use crate::demo::gemini::error::JSON;
use crate::demo::reply::{Reply, to_json};
use crate::demo::request::DemoRequest;
use crate::demo::vector::{EmbeddingParams, embed, reported_tokens};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<T> {
    #[serde(flatten)]
    vectors: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_metadata: Option<Usage>,
}

#[derive(Debug, Serialize)]
struct Single {
    embedding: Option<Vector>,
}

#[derive(Debug, Serialize)]
struct Batch {
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
    /// Not a typo: generated content spells this field `promptTokensDetails`.
    prompt_token_details: [Modality; 1],
}

fn vectors(request: &DemoRequest<EmbeddingParams>) -> impl Iterator<Item = Vector> {
    let EmbeddingParams { texts, dimensions, .. } = &request.params;
    texts.iter().map(|text| Vector { values: embed(text, *dimensions) })
}

fn reply(request: &DemoRequest<EmbeddingParams>, vectors: impl Serialize) -> Reply {
    let usage =
        |used| Usage { prompt_token_count: used, prompt_token_details: [Modality::text(used)] };
    let response = Response { vectors, usage_metadata: reported_tokens(request).map(usage) };
    Reply::complete(JSON, StatusCode::OK, to_json(&response))
}

pub fn single(request: &DemoRequest<EmbeddingParams>) -> Reply {
    reply(request, Single { embedding: vectors(request).next() })
}

pub fn batch(request: &DemoRequest<EmbeddingParams>) -> Reply {
    reply(request, Batch { embeddings: vectors(request).collect() })
}
