//! HTTPS upstreams: which certificates are trusted; a call to an untrusted upstream costs nothing.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::harness::client::Request;
use crate::harness::openai::{Usage, WORDS, chat, completion, events, reply};
use crate::harness::price::GPT_4O_MINI;
use crate::harness::serve::{ConfigDir, Server, model, upstream};
use crate::harness::tenant::Tenant;
use crate::harness::upstream::{Plan, Upstream};

const USAGE: Usage = Usage { prompt: 12, completion: 5, cached: 0, reasoning: 0 };
const FUNDS: i128 = 1_000_000_000;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority.
fn authority() -> Authority {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a certificate of its own")
}

/// A TLS acceptor with a certificate for `name` signed by `authority`.
fn acceptor(authority: &Authority, name: &str) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([name.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the versions of this build")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key.into())
        .expect("a key that fits");
    TlsAcceptor::from(Arc::new(config))
}

/// Starts a gateway that trusts `trusted` in front of this provider.
async fn setup(provider: &Upstream, trusted: &Authority) -> (Server, Tenant) {
    let rows = upstream("secure", &provider.url) + &model("gpt-4o-mini", "upstream = \"secure\"");
    let config_dir = ConfigDir::new(&rows);
    let roots = config_dir.write("roots.pem", &trusted.pem());
    let served =
        Server::start(config_dir.with_env("SSL_CERT_FILE", roots.display().to_string())).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    (served, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_by_https_complete_on_one_connection() {
    let authority = authority();
    let plan = |seen: &_| reply(seen, USAGE, Duration::from_millis(1));
    let provider = Upstream::start_tls(acceptor(&authority, "localhost"), plan).await;
    let (_served, tenant) = setup(&provider, &authority).await;
    for index in 0..6 {
        let stream = index % 2 == 1;
        let request = Request::chat(&tenant.key, chat("gpt-4o-mini", 50, stream));
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 200);
        let id = answer.id();
        let expected = if stream { events(WORDS, None).concat() } else { completion(USAGE) };
        assert_eq!(answer.text().await, expected);
        let debit = tenant.debit(&id).await;
        assert_eq!(debit.at("amount").nano(), GPT_4O_MINI.cost(USAGE), "{debit}");
    }
    let seen = provider.requests();
    assert!(seen.iter().all(|seen| seen.connection == 0), "the connection is reused: {seen:?}");
    let port = provider.url.rsplit(':').next().expect("a port");
    assert_eq!(seen[0].header("host"), Some(&*format!("localhost:{port}")));
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_a_tls_record_arrives_complete() {
    let authority = authority();
    let long = "wörd ".repeat(100_000);
    let text = completion(USAGE).replace("Hello", &long);
    let response_text = text.clone();
    let plan = move |_: &_| Plan::json(200, response_text.clone());
    let provider = Upstream::start_tls(acceptor(&authority, "localhost"), plan).await;
    let (_served, tenant) = setup(&provider, &authority).await;
    let body = chat("gpt-4o-mini", 50, false).replace("hello", &long);
    let answer = Request::chat(&tenant.key, &body).send(&tenant.proxy).await;
    assert_eq!(answer.text().await, text);
    assert_eq!(provider.requests()[0].body, body);
    tenant.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_certificate_for_another_name_is_rejected() {
    let authority = authority();
    let acceptor = acceptor(&authority, "elsewhere.example");
    assert_untrusted(acceptor, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_certificate_from_another_authority_is_rejected() {
    let acceptor = acceptor(&authority(), "localhost");
    assert_untrusted(acceptor, &authority()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_root_certificates_only_http_upstreams_are_served() {
    let plan = |seen: &_| reply(seen, USAGE, Duration::ZERO);
    let secure = Upstream::start_tls(acceptor(&authority(), "localhost"), plan).await;
    let unsecured = Upstream::start(plan).await;
    let rows = upstream("secure", &secure.url)
        + &upstream("unsecured", &unsecured.url)
        + &model("by-https", "upstream = \"secure\"")
        + &model("by-http", "upstream = \"unsecured\"");
    let config_dir = ConfigDir::new(&rows);
    let missing_file = config_dir.path("no-such-file").display().to_string();
    let served = Server::start(config_dir.with_env("SSL_CERT_FILE", missing_file)).await;
    let tenant = served.tenant(FUNDS, "{}").await;
    for (name, status) in [("by-http", 200), ("by-https", 502), ("by-http", 200)] {
        let request = Request::chat(&tenant.key, chat(name, 50, false));
        assert_eq!(request.send(&tenant.proxy).await.status, status, "{name}");
    }
    assert_eq!((unsecured.request_count(), secure.request_count()), (2, 0));
    assert!(served.log().contains("tls.roots"), "the log names the setting");
}

/// Asserts a 502 that costs neither money nor a request.
async fn assert_untrusted(acceptor: TlsAcceptor, trusted: &Authority) {
    let plan = |seen: &_| reply(seen, USAGE, Duration::ZERO);
    let provider = Upstream::start_tls(acceptor, plan).await;
    let (_served, tenant) = setup(&provider, trusted).await;
    for stream in [false, true] {
        let request = Request::chat(&tenant.key, chat("gpt-4o-mini", 50, stream));
        let answer = request.send(&tenant.proxy).await;
        assert_eq!(answer.status, 502);
        assert_eq!(
            answer.header("x-meteor-error-source"),
            Some("upstream"),
            "the upstream is at fault"
        );
        let id = answer.id();
        let error = answer.json().await.at("error");
        assert_eq!(error.at("type").text(), "upstream_error", "{error}");
        assert!(!error.to_string().contains("ertificate"), "the cause is only logged: {error}");
        let log = tenant.log(&id).await;
        assert_eq!(log.at("outcome").text(), "Failed", "{log}");
        assert_eq!(log.at("settledBy").text(), "none", "{log}");
        assert_eq!(tenant.usage().await.at("dailyUsage.requestCount").count(), 0);
    }
    assert_eq!(provider.request_count(), 0, "nothing was forwarded");
    assert_eq!(tenant.usage().await.at("dailyUsage.tokenCount").count(), 0);
    assert_eq!(tenant.wallet().await.at("balance").nano(), FUNDS);
    tenant.assert_settled().await;
}
