//! The endpoints of the data plane: which path is which, what each is called, which wire format it
//! speaks, and what a call to it uses.

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Chat completions and its siblings.
    OpenAi,
    /// Messages.
    Anthropic,
    /// `generateContent` and its siblings.
    Gemini,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Gemini];

    /// Its name in configurations, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

/// What a path asks for. What is not in this list is 404, never passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/responses/compact`
    CompactResponses,
    /// `POST /v1/responses/input_tokens`
    CountResponseTokens,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/images/generations`
    ImageGenerations,
    /// `POST /v1/images/edits`
    ImageEdits,
    /// `POST /v1/images/variations`
    ImageVariations,
    /// `POST /v1/audio/speech`
    Speech,
    /// `POST /v1/audio/transcriptions`
    Transcriptions,
    /// `POST /v1/audio/translations`
    Translations,
    /// `POST /v1/moderations`
    Moderations,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountMessageTokens,
    /// `POST /v1beta/models/{model}:generateContent`
    GenerateContent,
    /// `POST /v1beta/models/{model}:streamGenerateContent`
    StreamGenerateContent,
    /// `POST /v1beta/models/{model}:countTokens`
    CountTokens,
    /// `POST /v1beta/models/{model}:embedContent`
    EmbedContent,
    /// `POST /v1beta/models/{model}:batchEmbedContents`
    BatchEmbedContents,
    /// `GET /v1/models`, in the shape of whoever asks.
    Models,
    /// `GET /v1beta/models`
    GeminiModels,
    /// `GET /v1/limits`
    Limits,
    /// `GET /healthz`, for load balancers; without a key.
    Health,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPattern {
    /// A method and a whole path.
    Path(&'static str, &'static str),
    /// `POST` to a model, which the path names, and this verb behind a colon.
    Verb(&'static str),
}

/// What a call to an endpoint uses up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// A request, tokens and money.
    Full,
    /// A request, and nothing else: the provider only counts, or judges for nothing.
    Request,
    /// Nothing: the gateway answers by itself.
    Nothing,
}

/// What an endpoint makes or hears that is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// It makes images.
    Images,
    /// It speaks.
    Speech,
    /// It writes down what it hears.
    Transcription,
}

/// The folders below which a path names a model; newer Gemini SDKs use the first.
pub const MODEL_PATH_PREFIXES: [&str; 2] = ["/v1/models/", "/v1beta/models/"];

/// A path that names a model, cut before and after the name: the slash and the colon are not in
/// the middle. `None` where a path names none.
pub fn split_model_path(path: &str) -> Option<(&str, &str, &str)> {
    let folder = MODEL_PATH_PREFIXES.iter().find(|folder| path.starts_with(**folder))?;
    let (before, rest) = path.split_at(folder.len());
    let (model, verb) = rest.split_at(rest.rfind(':')?);
    (!model.is_empty() && !model.contains('/')).then_some((before, model, verb))
}

/// The wire format in which a path that is no endpoint is told so.
pub fn dialect_for_unknown_path(path: &str) -> Dialect {
    let below = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if below("/v1/messages") {
        Dialect::Anthropic
    } else if below("/v1beta") {
        Dialect::Gemini
    } else {
        Dialect::OpenAi
    }
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 24] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::CompactResponses,
        Self::CountResponseTokens,
        Self::Embeddings,
        Self::ImageGenerations,
        Self::ImageEdits,
        Self::ImageVariations,
        Self::Speech,
        Self::Transcriptions,
        Self::Translations,
        Self::Moderations,
        Self::Messages,
        Self::CountMessageTokens,
        Self::GenerateContent,
        Self::StreamGenerateContent,
        Self::CountTokens,
        Self::EmbedContent,
        Self::BatchEmbedContents,
        Self::Models,
        Self::GeminiModels,
        Self::Limits,
        Self::Health,
    ];

    /// The endpoint of a method and a path, and the model that the path names, escapes included.
    pub fn match_path<'a>(method: &str, path: &'a str) -> Option<(Self, Option<&'a str>)> {
        let to_model = split_model_path(path);
        Self::ALL.into_iter().find_map(|endpoint| match (endpoint.path_pattern(), to_model) {
            (PathPattern::Path(its_method, its_path), _) => {
                (its_path == path && its_method == method).then_some((endpoint, None))
            }
            (PathPattern::Verb(its_verb), Some((_, model, verb))) => {
                let is_it = method == "POST" && verb.strip_prefix(':') == Some(its_verb);
                is_it.then_some((endpoint, Some(model)))
            }
            (PathPattern::Verb(_), None) => None,
        })
    }

    /// Where it is.
    pub const fn path_pattern(self) -> PathPattern {
        match self {
            Self::ChatCompletions => PathPattern::Path("POST", "/v1/chat/completions"),
            Self::Completions => PathPattern::Path("POST", "/v1/completions"),
            Self::Responses => PathPattern::Path("POST", "/v1/responses"),
            Self::CompactResponses => PathPattern::Path("POST", "/v1/responses/compact"),
            Self::CountResponseTokens => PathPattern::Path("POST", "/v1/responses/input_tokens"),
            Self::Embeddings => PathPattern::Path("POST", "/v1/embeddings"),
            Self::ImageGenerations => PathPattern::Path("POST", "/v1/images/generations"),
            Self::ImageEdits => PathPattern::Path("POST", "/v1/images/edits"),
            Self::ImageVariations => PathPattern::Path("POST", "/v1/images/variations"),
            Self::Speech => PathPattern::Path("POST", "/v1/audio/speech"),
            Self::Transcriptions => PathPattern::Path("POST", "/v1/audio/transcriptions"),
            Self::Translations => PathPattern::Path("POST", "/v1/audio/translations"),
            Self::Moderations => PathPattern::Path("POST", "/v1/moderations"),
            Self::Messages => PathPattern::Path("POST", "/v1/messages"),
            Self::CountMessageTokens => PathPattern::Path("POST", "/v1/messages/count_tokens"),
            Self::GenerateContent => PathPattern::Verb("generateContent"),
            Self::StreamGenerateContent => PathPattern::Verb("streamGenerateContent"),
            Self::CountTokens => PathPattern::Verb("countTokens"),
            Self::EmbedContent => PathPattern::Verb("embedContent"),
            Self::BatchEmbedContents => PathPattern::Verb("batchEmbedContents"),
            Self::Models => PathPattern::Path("GET", "/v1/models"),
            Self::GeminiModels => PathPattern::Path("GET", "/v1beta/models"),
            Self::Limits => PathPattern::Path("GET", "/v1/limits"),
            Self::Health => PathPattern::Path("GET", "/healthz"),
        }
    }

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat.completions",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::CompactResponses => "responses.compact",
            Self::CountResponseTokens => "responses.input_tokens",
            Self::Embeddings => "embeddings",
            Self::ImageGenerations => "images.generations",
            Self::ImageEdits => "images.edits",
            Self::ImageVariations => "images.variations",
            Self::Speech => "audio.speech",
            Self::Transcriptions => "audio.transcriptions",
            Self::Translations => "audio.translations",
            Self::Moderations => "moderations",
            Self::Messages => "messages",
            Self::CountMessageTokens => "messages.count_tokens",
            Self::GenerateContent => "generateContent",
            Self::StreamGenerateContent => "streamGenerateContent",
            Self::CountTokens => "countTokens",
            Self::EmbedContent => "embedContent",
            Self::BatchEmbedContents => "batchEmbedContents",
            Self::Models | Self::GeminiModels => "models",
            Self::Limits => "limits",
            Self::Health => "health",
        }
    }

    /// The wire format that its callers speak. Those of `/v1/models` may speak any.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountMessageTokens => Dialect::Anthropic,
            Self::GenerateContent
            | Self::StreamGenerateContent
            | Self::CountTokens
            | Self::EmbedContent
            | Self::BatchEmbedContents
            | Self::GeminiModels => Dialect::Gemini,
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::CompactResponses
            | Self::CountResponseTokens
            | Self::Embeddings
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::ImageVariations
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations
            | Self::Moderations
            | Self::Models
            | Self::Limits
            | Self::Health => Dialect::OpenAi,
        }
    }

    /// What a call to it uses up.
    pub const fn metering(self) -> Metering {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::CompactResponses
            | Self::Embeddings
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::ImageVariations
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations
            | Self::Messages
            | Self::GenerateContent
            | Self::StreamGenerateContent
            | Self::EmbedContent
            | Self::BatchEmbedContents => Metering::Full,
            Self::CountResponseTokens
            | Self::Moderations
            | Self::CountMessageTokens
            | Self::CountTokens => Metering::Request,
            Self::Models | Self::GeminiModels | Self::Limits | Self::Health => Metering::Nothing,
        }
    }

    /// How many searches are billed of a call that asked for `asked` at most, where its answer tells
    /// of `told`.
    pub fn billed_searches(self, reported: u64, requested: u64) -> u64 {
        match self {
            // No report of a chat tells of its searches: they are taken to be made.
            Self::ChatCompletions => reported.max(requested),
            // What looks like a search is an argument of a tool, where none was asked for.
            Self::GenerateContent | Self::StreamGenerateContent if requested == 0 => 0,
            _ => reported,
        }
    }

    /// What it makes or hears, where that is no text.
    pub const fn media(self) -> Option<Media> {
        match self {
            Self::ImageGenerations | Self::ImageEdits | Self::ImageVariations => {
                Some(Media::Images)
            }
            Self::Speech => Some(Media::Speech),
            Self::Transcriptions | Self::Translations => Some(Media::Transcription),
            _ => None,
        }
    }

    /// Whether its requests come as forms, or may.
    pub const fn accepts_forms(self) -> bool {
        matches!(self, Self::ImageEdits) || self.accepts_only_forms()
    }

    /// Whether its requests come as forms alone.
    pub const fn accepts_only_forms(self) -> bool {
        matches!(self, Self::ImageVariations | Self::Transcriptions | Self::Translations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_with_its_model_and_nothing_else_is() {
        for (method, path, found) in [
            ("POST", "/v1/chat/completions", Some((Endpoint::ChatCompletions, None))),
            ("GET", "/v1/chat/completions", None),
            ("POST", "/v1/completions", Some((Endpoint::Completions, None))),
            ("POST", "/v1/responses/compact", Some((Endpoint::CompactResponses, None))),
            ("POST", "/v1/responses/resp_1/cancel", None),
            ("DELETE", "/v1/responses/resp_1", None),
            ("POST", "/v1/messages/", None),
            ("GET", "/v1/models", Some((Endpoint::Models, None))),
            (
                "POST",
                "/v1beta/models/gemini-2.5-flash:generateContent",
                Some((Endpoint::GenerateContent, Some("gemini-2.5-flash"))),
            ),
            ("POST", "/v1/models/a:b:countTokens", Some((Endpoint::CountTokens, Some("a:b")))),
            ("GET", "/v1beta/models/a:generateContent", None),
            ("POST", "/v1beta/models/a:predict", None),
            ("POST", "/v1beta/models/:generateContent", None),
            ("POST", "/v1beta/models/a/b:generateContent", None),
        ] {
            assert_eq!(Endpoint::match_path(method, path), found, "{method} {path}");
        }
    }

    /// An answer that is fetched again tells its old usage again: it is not served.
    #[test]
    fn edge_34_an_answer_is_not_fetched_again() {
        assert_eq!(Endpoint::match_path("GET", "/v1/responses/resp_1"), None);
        assert_eq!(Endpoint::match_path("GET", "/v1/responses/resp_1/input_items"), None);
        assert_eq!(Endpoint::match_path("GET", "/v1/chat/completions/chatcmpl-1"), None);
    }

    #[test]
    fn a_path_that_is_nowhere_is_told_so_in_the_dialect_of_its_folder() {
        for (path, dialect) in [
            ("/v1/messages/batches", Dialect::Anthropic),
            ("/v1beta/models/a:predict", Dialect::Gemini),
            ("/v1/messagesx", Dialect::OpenAi),
            ("/v1/models/a:predict", Dialect::OpenAi),
        ] {
            assert_eq!(dialect_for_unknown_path(path), dialect, "{path}");
        }
    }
}
