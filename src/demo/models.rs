//! temp
use crate::config::check::{self, Settings};
use crate::config::environment::Environment;
use crate::config::report::Report;

/// temp
pub fn settings(upstream: &str, any: bool) -> Result<Settings, Report> {
    let mut text = format!(
        "[[upstreams]]\nname = \"demo\"\nbase_url = \"{upstream}\"\ndialects = [\"openai\", \"anthropic\", \"gemini\"]\nauth = {{ kind = \"none\" }}\n"
    );
    for (id, max, i, c, o) in [
        ("gpt-4o-mini", 16384, "0.15", "0.075", "0.60"),
        ("gpt-4o", 16384, "2.50", "1.25", "10"),
        ("gpt-5-mini", 128000, "0.25", "0.025", "2"),
        ("o4-mini", 100000, "1.10", "0.275", "4.40"),
    ] {
        text += &format!(
            "[[models]]\nid = \"{id}\"\nupstream = \"demo\"\nmax_output_tokens = {max}\nprices = {{ inputTokens = \"{i}\", cachedInputTokens = \"{c}\", outputTokens = \"{o}\" }}\n"
        );
    }
    let mut s = check::read(&text, &Environment::default())?;
    if any {
        s.fallback = s.models.first().cloned();
    }
    Ok(s)
}
