//! The script of an answer: how late, how long, how broken, as headers and first words ask.

use std::time::Duration;

use http::HeaderMap;

/// How the provider shall answer one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// From the request to the head of the answer.
    pub latency: Duration,
    /// Between the events of a stream.
    pub event_interval: Duration,
    /// How many tokens the text has, before any bound.
    pub tokens: Option<u64>,
    /// How many input tokens are reported.
    pub input_tokens: Option<u64>,
    /// How many of them came from a cache.
    pub cached_tokens: u64,
    /// How many hidden tokens come before the text.
    pub reasoning_tokens: Option<u64>,
    /// Whether a tool is called, if there is one, although none must be.
    pub calls_tool: bool,
    /// An error instead of an answer.
    pub status: Option<u16>,
    /// How the answer ends.
    pub ending: ReplyEnding,
    /// Whether usage is reported.
    pub reports_usage: bool,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEnding {
    /// As it should.
    Complete,
    /// The connection breaks halfway.
    Cut,
    /// Nothing more comes after half of it.
    Stall,
    /// Halfway, a stream ends with an error. What comes whole comes as it should.
    StreamError,
}

/// A word that the provider knows, with a value that it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCommand(pub String);

/// The longest text, so that a demo cannot eat the machine.
pub const TOKENS_MAX: u64 = 32_768;
const INPUT_TOKENS_MAX: u64 = 10_000_000;
const DELAY_MAX: Duration = Duration::from_hours(1);

/// Each command: its word in a prompt, its header, whether it takes a value.
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
    /// The script that the headers ask for.
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

    /// The same, changed by the commands that a prompt begins with; any other word ends them.
    pub fn with_prompt_commands(mut self, prompt: &str) -> Result<Self, InvalidCommand> {
        let mut words = prompt.split_whitespace();
        while let Some(word) = words.next() {
            let Some((_, _, takes_value)) = COMMANDS.iter().find(|(known, ..)| *known == word)
            else {
                break;
            };
            let value = if *takes_value { words.next().unwrap_or_default() } else { "" };
            self.apply(word, value).ok_or_else(|| invalid_command(word, value))?;
        }
        Ok(self)
    }

    fn apply(&mut self, word: &str, value: &str) -> Option<()> {
        let tokens = |most: u64| value.parse().ok().filter(|tokens| *tokens <= most);
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

/// `200ms`, `2s`, or a bare number of milliseconds.
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
        "'{word}' cannot be '{value}'. Write /slow 200ms, /chunk 20ms, /tokens 50, /input 1000, \
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
    fn commands_are_the_first_words() {
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
    fn other_words_are_just_words() {
        for prompt in ["", "hello", "/usr/bin/env what?", "say /cut", "/Cut", "/errors 5"] {
            assert_eq!(of_words(prompt), Ok(Script::default()), "{prompt}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_followed_is_told() {
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
    fn words_win_over_headers() {
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
