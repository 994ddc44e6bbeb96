//! `meteor routes`: lists the endpoints of the data plane. All other paths return 404.

use crate::dialect::endpoint::{Endpoint, Metering, PathPattern};
use crate::dialect::paths::{LocalEndpoint, MODEL_PATH_PREFIXES};

/// Returns a line for each method and path: `POST /v1/embeddings openai tokens`. The last word is
/// what a call consumes: `tokens` (with a request and money), a `request`, or `nothing`.
pub fn lines() -> Vec<String> {
    let proxied = Endpoint::ALL.into_iter().flat_map(proxied_lines);
    proxied.chain(LocalEndpoint::ALL.into_iter().map(local_line)).collect()
}

fn proxied_lines(endpoint: Endpoint) -> Vec<String> {
    let dialect = endpoint.dialect().name();
    let uses = match endpoint.metering() {
        Metering::Full => "tokens",
        Metering::Request => "request",
    };
    let line = |path: &str| format!("POST {path} {dialect} {uses}");
    match endpoint.spec().path {
        PathPattern::Exact(path) => vec![line(path)],
        PathPattern::ModelVerb(verb) => {
            let path = |prefix: &&str| line(&format!("{prefix}{{model}}:{verb}"));
            MODEL_PATH_PREFIXES.iter().map(path).collect()
        }
    }
}

fn local_line(endpoint: LocalEndpoint) -> String {
    format!("GET {} {} nothing", endpoint.path(), endpoint.dialect().name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::paths::{PathMatch, match_path};

    #[test]
    fn each_line_leads_to_its_endpoint() {
        let lines = lines();
        assert!(lines.contains(&"POST /v1/models/{model}:countTokens gemini request".to_owned()));
        for line in &lines {
            let [method, path, ..] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}: four words");
            };
            let (matched, _) = match_path(method, path).expect(line);
            let of_endpoint = match matched {
                PathMatch::Proxied(endpoint) => proxied_lines(endpoint),
                PathMatch::Local(endpoint) => vec![local_line(endpoint)],
            };
            assert!(of_endpoint.contains(line), "{line}");
        }
    }
}
