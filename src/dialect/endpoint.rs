//! The endpoints of the data plane: which path is which, and what each is called.

/// What a path asks for. What is not in this list is 404, never passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/limits`
    Limits,
    /// `GET /healthz`, for load balancers; without a key.
    Health,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 4] = [Self::ChatCompletions, Self::Models, Self::Limits, Self::Health];

    /// The endpoint of a method and a path.
    pub fn of(method: &str, path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| {
            let (its_method, its_path) = endpoint.route();
            its_path == path && its_method == method
        })
    }

    /// Its method and path.
    pub const fn route(self) -> (&'static str, &'static str) {
        match self {
            Self::ChatCompletions => ("POST", "/v1/chat/completions"),
            Self::Models => ("GET", "/v1/models"),
            Self::Limits => ("GET", "/v1/limits"),
            Self::Health => ("GET", "/healthz"),
        }
    }

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat.completions",
            Self::Models => "models",
            Self::Limits => "limits",
            Self::Health => "health",
        }
    }

    /// The wire format that its callers speak.
    pub const fn dialect(self) -> &'static str {
        "openai"
    }
}
