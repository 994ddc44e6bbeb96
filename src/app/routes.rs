//! `meteor routes`: lists the endpoints of the data plane. All other paths return 404.

use crate::dialect::endpoint::{Endpoint, MODEL_PATH_PREFIXES, Metering, PathPattern};

/// Returns a line per method and path, such as `POST /v1/embeddings openai tokens`. The last word
/// is what a call consumes: `tokens` (as well as a request and money), `request`, or `nothing`.
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
    fn each_line_names_the_endpoint_that_serves_its_path() {
        let all_lines: Vec<String> = lines();
        assert!(
            all_lines.contains(&"POST /v1/models/{model}:countTokens gemini request".to_owned())
        );
        for line in &all_lines {
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
