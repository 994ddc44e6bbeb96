//! Routes: what the data plane serves, as a text. Whatever is not in it is 404.

use crate::dialect::endpoint::{Endpoint, MODEL_PATH_PREFIXES, Metering, PathPattern};

/// A line for each method and path: `POST /v1/embeddings openai tokens`. The last word is what a
/// call uses up: `tokens` (with a request and money), a `request`, or `nothing`.
pub fn lines() -> Vec<String> {
    Endpoint::ALL.into_iter().flat_map(lines_of).collect()
}

fn lines_of(endpoint: Endpoint) -> Vec<String> {
    let dialect = endpoint.dialect().name();
    let uses = match endpoint.metering() {
        Metering::Full => "tokens",
        Metering::Request => "request",
        Metering::Nothing => "nothing",
    };
    let line = |method: &str, path: &str| format!("{method} {path} {dialect} {uses}");
    match endpoint.path_pattern() {
        PathPattern::Path(method, path) => vec![line(method, path)],
        PathPattern::Verb(verb) => {
            let path = |folder: &&str| line("POST", &format!("{folder}{{model}}:{verb}"));
            MODEL_PATH_PREFIXES.iter().map(path).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_leads_to_the_endpoint_that_it_tells_of() {
        let told: Vec<String> = lines();
        assert!(told.contains(&"POST /v1/models/{model}:countTokens gemini request".to_owned()));
        for line in &told {
            let [method, path, dialect, _] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}: four words");
            };
            let (endpoint, _) = Endpoint::match_path(method, path).expect(line);
            assert_eq!(endpoint.dialect().name(), dialect, "{line}");
            assert!(lines_of(endpoint).contains(line), "{line}");
        }
        assert!(Endpoint::ALL.iter().all(|endpoint| !lines_of(*endpoint).is_empty()));
    }
}
