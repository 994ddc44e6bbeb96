//! The endpoints of the data plane: one row per endpoint has its path and wire format, what a call
//! consumes, and the functions that read its requests.

use crate::dialect::call_facts::{CallFacts, Edit, ParseError};
use crate::dialect::media::kind::Media;
use crate::dialect::prompt_text::PromptText;
use crate::dialect::{anthropic, gemini, media, openai};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Chat completions, responses and the other endpoints of the OpenAI API.
    OpenAi,
    /// Messages.
    Anthropic,
    /// `generateContent` and the other methods of the Gemini API.
    Gemini,
}

impl Dialect {
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Gemini];

    /// Returns the name in configurations, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

/// The path of an endpoint that is served by upstreams; its method is always `POST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPattern {
    /// A whole path.
    Exact(&'static str),
    /// A path that names a model, and this verb after a colon.
    ModelVerb(&'static str),
}

/// What a call to an endpoint consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// A request, tokens and money.
    Full,
    /// A request only, because the provider counts tokens or moderates free of charge.
    Request,
}

/// How many of the web searches of a call are billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchBilling {
    /// Those that the response reports.
    Reported,
    /// The larger of both counts, because chat responses do not report their searches.
    ReportedOrRequested,
    /// Those that the response reports, but none without a search tool in the request: then what
    /// looks like a search is an argument of a function call.
    ReportedIfRequested,
}

type ParseJson = fn(model: &str, body: &[u8]) -> Result<CallFacts, ParseError>;
type ParseForm = fn(boundary: &str, body: &[u8]) -> Result<CallFacts, ParseError>;
type ClampOutput = fn(body: &[u8], field: &'static str, tokens: u64) -> Option<Edit>;
type AddPrompt = for<'a> fn(&mut PromptText<'a>, &'a [u8]);

/// The row of one endpoint.
#[derive(Debug)]
pub struct EndpointSpec {
    pub path: PathPattern,
    /// Name in logs and metrics.
    pub name: &'static str,
    /// Wire format of the callers.
    pub dialect: Dialect,
    pub metering: Metering,
    /// What the endpoint produces or reads, if that is not text.
    pub media: Option<Media>,
    pub search_billing: SearchBilling,
    /// Reads a JSON body; the model is that of the path, or empty. None if only forms are accepted.
    pub parse_json: Option<ParseJson>,
    /// Reads a form. None if only JSON is accepted.
    pub parse_form: Option<ParseForm>,
    /// Returns the edit that bounds the output. None if there is no output that can be bounded.
    pub clamp: Option<ClampOutput>,
    /// Collects the texts of the prompt. None if the input is not text.
    pub add_prompt: Option<AddPrompt>,
}

impl EndpointSpec {
    const fn openai(path: &'static str, name: &'static str, parse_json: ParseJson) -> Self {
        Self {
            path: PathPattern::Exact(path),
            name,
            dialect: Dialect::OpenAi,
            metering: Metering::Full,
            media: None,
            search_billing: SearchBilling::Reported,
            parse_json: Some(parse_json),
            parse_form: None,
            clamp: None,
            add_prompt: Some(|prompt, body| prompt.push_chat(body)),
        }
    }

    const fn media(
        path: &'static str,
        name: &'static str,
        media: Media,
        parse_json: Option<ParseJson>,
        parse_form: Option<ParseForm>,
    ) -> Self {
        Self {
            path: PathPattern::Exact(path),
            name,
            dialect: Dialect::OpenAi,
            metering: Metering::Full,
            media: Some(media),
            search_billing: SearchBilling::Reported,
            parse_json,
            parse_form,
            clamp: None,
            add_prompt: None,
        }
    }

    const fn anthropic(path: &'static str, name: &'static str, parse_json: ParseJson) -> Self {
        Self {
            dialect: Dialect::Anthropic,
            add_prompt: Some(|prompt, body| prompt.push_message(body)),
            ..Self::openai(path, name, parse_json)
        }
    }

    const fn gemini(verb: &'static str, parse_json: ParseJson) -> Self {
        Self {
            path: PathPattern::ModelVerb(verb),
            dialect: Dialect::Gemini,
            add_prompt: Some(|prompt, body| prompt.push_content_request(body)),
            ..Self::openai("", verb, parse_json)
        }
    }
}

macro_rules! endpoints {
    ($($endpoint:ident => $spec:expr;)+) => {
        /// An endpoint that is served by upstreams.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Endpoint { $($endpoint),+ }

        impl Endpoint {
            pub const ALL: [Self; [$(Self::$endpoint),+].len()] = [$(Self::$endpoint),+];
        }

        static SPECS: [EndpointSpec; Endpoint::ALL.len()] = [$($spec),+];
    };
}

endpoints! {
    ChatCompletions => EndpointSpec {
        search_billing: SearchBilling::ReportedOrRequested,
        clamp: Some(openai::request::clamp),
        ..EndpointSpec::openai("/v1/chat/completions", "chat.completions", |_, body| {
            openai::request::chat(body)
        })
    };
    Completions => EndpointSpec {
        clamp: Some(|body, _, tokens| openai::request::clamp(body, "max_tokens", tokens)),
        add_prompt: Some(|prompt, body| prompt.push_inputs(body, "prompt")),
        ..EndpointSpec::openai("/v1/completions", "completions", |_, body| {
            openai::request::completion(body)
        })
    };
    Responses => EndpointSpec {
        clamp: Some(|body, _, tokens| openai::responses::clamp(body, tokens)),
        add_prompt: Some(|prompt, body| prompt.push_response(body)),
        ..EndpointSpec::openai("/v1/responses", "responses", |_, body| {
            openai::responses::response(body)
        })
    };
    CompactResponses => EndpointSpec {
        add_prompt: Some(|prompt, body| prompt.push_response(body)),
        ..EndpointSpec::openai("/v1/responses/compact", "responses.compact", |_, body| {
            openai::responses::compact(body)
        })
    };
    CountResponseTokens => EndpointSpec {
        metering: Metering::Request,
        ..EndpointSpec::openai("/v1/responses/input_tokens", "responses.input_tokens", |_, body| {
            openai::responses::count(body)
        })
    };
    Embeddings => EndpointSpec {
        add_prompt: Some(|prompt, body| prompt.push_inputs(body, "input")),
        ..EndpointSpec::openai("/v1/embeddings", "embeddings", |_, body| {
            openai::request::embeddings(body)
        })
    };
    ImageGenerations => EndpointSpec::media(
        "/v1/images/generations",
        "images.generations",
        Media::Images,
        Some(|_, body| media::request::image_generation(body)),
        None,
    );
    ImageEdits => EndpointSpec::media(
        "/v1/images/edits",
        "images.edits",
        Media::Images,
        Some(|_, body| media::request::image_edit(body)),
        Some(media::request::image_form),
    );
    ImageVariations => EndpointSpec::media(
        "/v1/images/variations",
        "images.variations",
        Media::Images,
        None,
        Some(media::request::image_form),
    );
    Speech => EndpointSpec::media(
        "/v1/audio/speech",
        "audio.speech",
        Media::Speech,
        Some(|_, body| media::request::speech(body)),
        None,
    );
    Transcriptions => EndpointSpec::media(
        "/v1/audio/transcriptions",
        "audio.transcriptions",
        Media::Transcription,
        None,
        Some(media::request::transcription_form),
    );
    Translations => EndpointSpec::media(
        "/v1/audio/translations",
        "audio.translations",
        Media::Transcription,
        None,
        Some(media::request::transcription_form),
    );
    Moderations => EndpointSpec {
        metering: Metering::Request,
        ..EndpointSpec::openai("/v1/moderations", "moderations", |_, body| {
            openai::request::moderation(body)
        })
    };
    Messages => EndpointSpec {
        clamp: Some(|body, _, tokens| openai::request::clamp(body, "max_tokens", tokens)),
        ..EndpointSpec::anthropic("/v1/messages", "messages", |_, body| {
            anthropic::request::message(body)
        })
    };
    CountMessageTokens => EndpointSpec {
        metering: Metering::Request,
        ..EndpointSpec::anthropic("/v1/messages/count_tokens", "messages.count_tokens", |_, body| {
            anthropic::request::count(body)
        })
    };
    GenerateContent => EndpointSpec {
        search_billing: SearchBilling::ReportedIfRequested,
        clamp: Some(|body, _, tokens| gemini::request::clamp(body, tokens)),
        ..EndpointSpec::gemini("generateContent", |model, body| {
            gemini::request::content(model, body, false)
        })
    };
    StreamGenerateContent => EndpointSpec {
        search_billing: SearchBilling::ReportedIfRequested,
        clamp: Some(|body, _, tokens| gemini::request::clamp(body, tokens)),
        ..EndpointSpec::gemini("streamGenerateContent", |model, body| {
            gemini::request::content(model, body, true)
        })
    };
    CountTokens => EndpointSpec {
        metering: Metering::Request,
        ..EndpointSpec::gemini("countTokens", gemini::request::input_only)
    };
    EmbedContent => EndpointSpec::gemini("embedContent", gemini::request::input_only);
    BatchEmbedContents => EndpointSpec::gemini("batchEmbedContents", gemini::request::input_only);
}

impl Endpoint {
    pub fn spec(self) -> &'static EndpointSpec {
        &SPECS[self as usize]
    }

    /// Returns the name in logs and metrics.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Returns the wire format of the callers.
    pub fn dialect(self) -> Dialect {
        self.spec().dialect
    }

    pub fn metering(self) -> Metering {
        self.spec().metering
    }

    /// Returns what the endpoint produces or reads, if that is not text.
    pub fn media(self) -> Option<Media> {
        self.spec().media
    }

    /// Returns the number of web searches to bill: the response reports `reported`, and the request
    /// allowed `requested` at most.
    pub fn billed_searches(self, reported: u64, requested: u64) -> u64 {
        match self.spec().search_billing {
            SearchBilling::ReportedOrRequested => reported.max(requested),
            SearchBilling::ReportedIfRequested if requested == 0 => 0,
            SearchBilling::Reported | SearchBilling::ReportedIfRequested => reported,
        }
    }

    pub fn accepts_forms(self) -> bool {
        self.spec().parse_form.is_some()
    }

    pub fn accepts_only_forms(self) -> bool {
        self.spec().parse_json.is_none()
    }
}
