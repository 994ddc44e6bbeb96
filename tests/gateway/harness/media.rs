//! A gateway for image and audio tests: models, multipart forms and audio files.

use crate::harness::client::{Request, Response};
use crate::harness::json::Json;
use crate::harness::serve::{ConfigDir, Server, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, ReceivedRequest, Upstream};
use crate::harness::wait::eventually;

/// Models and prices: per million tokens or characters, or per piece.
const MODELS: [(&str, u64, &str); 7] = [
    ("gpt-image-1", 8_192, r#"inputTokens = "5", inputImageTokens = "10", outputTokens = "40""#),
    ("dall-e-3", 0, r#"inputTokens = "0", images = "0.12""#),
    ("dall-e-2", 0, r#"inputTokens = "0", images = "0.02""#),
    ("tts-1", 0, r#"inputTokens = "0", characters = "15""#),
    (
        "gpt-4o-mini-tts",
        2_000,
        r#"inputTokens = "0.60", outputTokens = "0.60", outputAudioTokens = "12""#,
    ),
    ("whisper-1", 0, r#"inputTokens = "0", audioSeconds = "0.0001""#),
    (
        "gpt-4o-transcribe",
        2_000,
        r#"inputTokens = "2.50", inputAudioTokens = "6", outputTokens = "10""#,
    ),
];

/// The content type with the boundary of every form in these tests.
pub const FORM_CONTENT_TYPE: &str = "multipart/form-data; boundary=edge";

/// A gateway in front of a fake upstream for images and audio.
pub struct MediaGateway {
    pub server: Server,
    pub upstream: Upstream,
    pub tenant: Tenant,
}

impl MediaGateway {
    pub async fn new(plan: impl Fn(&ReceivedRequest) -> Plan + Send + Sync + 'static) -> Self {
        let provider = Upstream::start(plan).await;
        let mut rows = upstream("studio", &provider.url);
        let model = |(id, output, prices)| {
            format!(
                "[[models]]\nid = \"{id}\"\nupstream = \"studio\"\nmax_output_tokens = {output}\n\
                 prices = {{ {prices} }}\n"
            )
        };
        rows += &MODELS.map(model).concat();
        rows += "[[models]]\nid = \"draw\"\nmax_output_tokens = 0\n\
                 prices = { inputTokens = \"0\", images = \"0.12\" }\n\
                 targets = [{ upstream = \"studio\", model = \"dall-e-3\" }]\n";
        let server = Server::start(ConfigDir::new(&rows)).await;
        let tenant = server.tenant(100_000_000_000, "{}").await;
        Self { server, upstream: provider, tenant }
    }

    /// Sends a JSON body.
    pub async fn post_json(&self, path: &str, body: &str) -> Response {
        Request::post(path, body).bearer(&self.tenant.key).send(&self.tenant.proxy).await
    }

    /// Sends a multipart form.
    pub async fn post_form(&self, path: &str, form: &[u8]) -> Response {
        self.post(path, FORM_CONTENT_TYPE, form).await
    }

    /// Sends a body with this content type.
    pub async fn post(&self, path: &str, kind: &str, body: &[u8]) -> Response {
        let request = Request::post(path, body).without_header("content-type");
        let request = request.header("content-type", kind).bearer(&self.tenant.key);
        request.send(&self.tenant.proxy).await
    }

    /// Asserts the cost of a call in its request log entry and its debit; returns the entry.
    pub async fn assert_cost(&self, id: &str, settled_by: &str, cost: i128) -> Json {
        let log = eventually("the call is in the request log", async || {
            let logs = self.tenant.logs().await;
            logs.into_iter().find(|log| log.at("requestLogId").text() == id)
        })
        .await;
        assert_eq!(log.at("settledBy").text(), settled_by, "{log}");
        assert_eq!(log.at("cost").nano(), cost, "{log}");
        assert_eq!(self.tenant.debit(id).await.at("amount").nano(), cost, "{log}");
        self.tenant.assert_settled().await;
        log
    }
}

/// A multipart form with these fields and an optional file.
pub fn multipart_form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Vec<u8> {
    let mut form = Vec::new();
    let mut part = |head: String, value: &[u8]| {
        form.extend(format!("--edge\r\nContent-Disposition: form-data; {head}\r\n\r\n").bytes());
        form.extend(value);
        form.extend(b"\r\n");
    };
    for (name, value) in fields {
        part(format!("name=\"{name}\""), value.as_bytes());
    }
    if let Some((name, bytes)) = file {
        let head = format!(
            "name=\"{name}\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream"
        );
        part(head, bytes);
    }
    form.extend(b"--edge--\r\n");
    form
}

/// A silent WAV file with 8,000 one-byte samples per second.
pub fn wav(milliseconds: usize) -> Vec<u8> {
    let samples = 8 * milliseconds;
    let size = |bytes: usize| u32::try_from(bytes).expect("short").to_le_bytes();
    let mut file = b"RIFF".to_vec();
    file.extend(size(36 + samples));
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
    file.extend(size(samples));
    file.resize(44 + samples, 0);
    file
}

/// An audio response in `pieces` chunks of one kilobyte.
pub fn audio_plan(pieces: usize) -> Plan {
    let mut plan = Plan::stream((0..pieces).map(|_| [0xff; 1024]), std::time::Duration::ZERO);
    plan.headers = vec![("content-type", "audio/mpeg".to_owned())];
    plan
}
