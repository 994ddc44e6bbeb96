//! The script of a response: latency, length and simulated fault, set by headers or prompt
//! commands.

use std::time::Duration;

use http::HeaderMap;

/// How the provider responds to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Delay before the response headers.
    pub latency: Duration,
    /// Delay between stream events.
    pub event_interval: Duration,
    /// Tokens of the text, before any output limit.
    pub tokens: Option<u64>,
    /// Reported input tokens.
    pub input_tokens: Option<u64>,
    /// Reported input tokens read from a cache.
    pub cached_tokens: u64,
    /// Hidden reasoning tokens before the text.
    pub reasoning_tokens: Option<u64>,
    /// Whether to call a tool of the request even if the request does not demand it.
    pub calls_tool: bool,
    /// Respond with this error status instead.
    pub status: Option<u16>,
    pub ending: ReplyEnding,
    pub reports_usage: bool,
}

/// How a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEnding {
    Complete,
    /// The connection closes halfway.
    Cut,
    /// Nothing is sent after the first half.
    Stall,
    /// A stream ends halfway with an error event. Other responses are complete.
    StreamError,
}

/// The error text of a known command with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCommand(pub String);

/// Bounds the memory of a response.
pub const TOKENS_MAX: u64 = 32_768;
const INPUT_TOKENS_MAX: u64 = 10_000_000;
const DELAY_MAX: Duration = Duration::from_hours(1);

/// The commands: name in a prompt, header, whether the command takes a value.
const COMMANDS: [(&str, &str, bool); 12] = [
    ("/slow", "x-demo-latency-ms", true),
    ("/chunk", "x-demo-chunk-ms", true),
    ("/tokens", "x-demo-tokens", true),
    ("/input", "x-demo-input-tokens", true),
    ("/cached", "x-demo-cached-tokens", true),
    ("/think", "x-demo-reasoning-tokens", true),
    ("/tool", "x-demo-tool", false),
    ("/error", "x-demo-status", true),
    ("/cut", "x-demo-cut", false),
    ("/stall", "x-demo-stall", false),
    ("/breakoff", "x-demo-breakoff", false),
    ("/nousage", "x-demo-no-usage", false),
];

impl Default for Script {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            event_interval: Duration::ZERO,
            tokens: None,
            input_tokens: None,
            cached_tokens: 0,
            reasoning_tokens: None,
            calls_tool: false,
            status: None,
            ending: ReplyEnding::Complete,
            reports_usage: true,
        }
    }
}

impl Script {
    /// Reads the script from the headers.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, InvalidCommand> {
        let mut script = Self::default();
        for (word, header, _) in COMMANDS {
            if let Some(value) = headers.get(header) {
                let value = value.to_str().unwrap_or_default();
                script.apply(word, value).ok_or_else(|| invalid_command(header, value))?;
            }
        }
        Ok(script)
    }

    /// Applies the commands at the start of a prompt. The first other word ends them.
    pub fn with_prompt_commands(mut self, prompt: &str) -> Result<Self, InvalidCommand> {
        let mut words = prompt.split_whitespace();
        while let Some(word) = words.next() {
            let Some((_, _, takes_value)) = COMMANDS.iter().find(|(name, ..)| *name == word) else {
                break;
            };
            let value = if *takes_value { words.next().unwrap_or_default() } else { "" };
            self.apply(word, value).ok_or_else(|| invalid_command(word, value))?;
        }
        Ok(self)
    }

    fn apply(&mut self, word: &str, value: &str) -> Option<()> {
        let tokens = |max: u64| value.parse().ok().filter(|tokens| *tokens <= max);
        match word {
            "/slow" => self.latency = parse_delay(value)?,
            "/chunk" => self.event_interval = parse_delay(value)?,
            "/tokens" => self.tokens = Some(tokens(TOKENS_MAX)?),
            "/input" => self.input_tokens = Some(tokens(INPUT_TOKENS_MAX)?),
            "/cached" => self.cached_tokens = tokens(INPUT_TOKENS_MAX)?,
            "/think" => self.reasoning_tokens = Some(tokens(TOKENS_MAX)?),
            "/tool" => self.calls_tool = true,
            "/error" => {
                let status = value.parse().ok().filter(|status| (400..=599).contains(status));
                self.status = Some(status?);
            }
            "/cut" => self.ending = ReplyEnding::Cut,
            "/stall" => self.ending = ReplyEnding::Stall,
            "/breakoff" => self.ending = ReplyEnding::StreamError,
            "/nousage" => self.reports_usage = false,
            _ => return None,
        }
        Some(())
    }
}

/// Parses `200ms`, `2s` or a number of milliseconds.
fn parse_delay(text: &str) -> Option<Duration> {
    let wait = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => Duration::from_millis(number.parse().ok()?),
        (None, Some(number)) => Duration::from_secs(number.parse().ok()?),
        (None, None) => Duration::from_millis(text.parse().ok()?),
    };
    Some(wait).filter(|wait| *wait <= DELAY_MAX)
}

fn invalid_command(word: &str, value: &str) -> InvalidCommand {
    InvalidCommand(format!(
        "Invalid value '{value}' for '{word}'. Expected /slow 200ms, /chunk 20ms, /tokens 50, /input 1000, \
         /cached 500, /think 64, /tool, /error 400 to 599, /cut, /stall, /breakoff or /nousage."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_words(prompt: &str) -> Result<Script, InvalidCommand> {
        Script::default().with_prompt_commands(prompt)
    }

    #[test]
    fn commands_are_read_from_the_start_of_the_prompt() {
        let script = of_words("/slow 200ms /tokens 50\n/nousage tell me of /error 500");
        let expected = Script {
            latency: Duration::from_millis(200),
            tokens: Some(50),
            reports_usage: false,
            ..Script::default()
        };
        assert_eq!(script, Ok(expected));
        assert_eq!(
            of_words("/chunk 2s").map(|script| script.event_interval),
            Ok(Duration::from_secs(2))
        );
        assert_eq!(of_words("/slow 7").map(|script| script.latency), Ok(Duration::from_millis(7)));
        assert_eq!(of_words("/cut").map(|script| script.ending), Ok(ReplyEnding::Cut));
        let broken = of_words("/tool /breakoff").expect("understood");
        assert_eq!((broken.calls_tool, broken.ending), (true, ReplyEnding::StreamError));
    }

    #[test]
    fn other_words_are_ignored() {
        for prompt in ["", "hello", "/usr/bin/env what?", "say /cut", "/Cut", "/errors 5"] {
            assert_eq!(of_words(prompt), Ok(Script::default()), "{prompt}");
        }
    }

    #[test]
    fn a_command_with_an_invalid_value_is_rejected() {
        for prompt in [
            "/slow",
            "/slow soon",
            "/slow 2h",
            "/tokens -1",
            "/tokens 40000",
            "/error 200",
            "/error",
            "/slow 7200s",
        ] {
            let Err(InvalidCommand(message)) = of_words(prompt) else { panic!("{prompt}") };
            assert!(message.contains("/nousage"), "{message}");
        }
    }

    #[test]
    fn prompt_commands_override_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("x-demo-latency-ms", "20".parse().expect("a value"));
        headers.insert("x-demo-status", "503".parse().expect("a value"));
        headers.insert("x-demo-stall", "1".parse().expect("a value"));
        let script = Script::from_headers(&headers)
            .and_then(|s| s.with_prompt_commands("/error 429 /slow 1ms"));
        let script = script.expect("understood");
        assert_eq!((script.latency, script.status), (Duration::from_millis(1), Some(429)));
        assert_eq!(script.ending, ReplyEnding::Stall);
        headers.insert("x-demo-tokens", "many".parse().expect("a value"));
        assert!(Script::from_headers(&headers).is_err());
    }
}
