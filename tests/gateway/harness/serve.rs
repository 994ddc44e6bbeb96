//! `meteor serve` with a test configuration, and its operator account, created over HTTP.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::client::{Request, Response};
use crate::harness::demo::{temp_folder, wait_ready};
use crate::harness::json::Json;
use crate::harness::process::{Process, meteor_command};
use crate::harness::tenant::Tenant;
use crate::harness::wait::eventually;

/// A folder with a configuration file, and the environment variables for the process.
#[derive(Clone)]
pub struct ConfigDir {
    folder: Arc<TempDir>,
    /// A program and its arguments that start the gateway instead of a direct call of the binary.
    launcher: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl ConfigDir {
    /// Creates a folder with free ports, a data folder and the additional configuration `text`.
    pub fn new(text: &str) -> Self {
        let config_dir =
            Self { folder: temp_folder(), launcher: Vec::new(), variables: Vec::new() };
        let listen = "listen = \"127.0.0.1:0\"\n";
        let data = config_dir.path("data");
        let data = data.display();
        // One worker, so that a call can reuse the connection of the previous call.
        let all = format!(
            "[data]\nfolder = \"{data}\"\n[proxy]\n{listen}workers = 1\n[admin]\n{listen}\
             [log]\nlevel = \"debug\"\n{text}"
        );
        config_dir.write("gateway.toml", &all);
        config_dir
    }

    /// Sets an environment variable of the process.
    pub fn with_env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Starts the gateway through another program.
    pub fn launched_by(mut self, launcher: Vec<String>) -> Self {
        self.launcher = launcher;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the folder can be written");
        path
    }

    /// Runs `meteor` with these arguments and the configuration file to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the binary starts")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = match &*self.launcher {
            [] => meteor_command(),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        command.args(words).arg(self.path("gateway.toml")).env_remove("RUST_LOG");
        command.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The configuration of an upstream.
pub fn upstream(name: &str, url: &str) -> String {
    format!("[[upstreams]]\nname = \"{name}\"\nbase_url = \"{url}\"\n")
}

/// The configuration of a model at the price of gpt-4o-mini. `served` names its upstream.
pub fn model(id: &str, server: &str) -> String {
    format!(
        "[[models]]\nid = \"{id}\"\n{server}\nmax_output_tokens = 16384\n\
         prices = {{ inputTokens = \"0.15\", cachedInputTokens = \"0.075\", outputTokens = \"0.60\" }}\n"
    )
}

/// A running `meteor serve`.
pub struct Server {
    /// Host and port of the listener.
    pub proxy: String,
    pub admin: String,
    process: Process,
    config_dir: ConfigDir,
}

impl Server {
    pub async fn start(config_dir: ConfigDir) -> Self {
        let mut process = Process::start(config_dir.command(&["serve", "--config"]), is_setup_link);
        let line = eventually("the gateway logs its addresses", async || {
            let alive = process.is_running();
            let log = process.log();
            let mut lines = log.split_inclusive('\n');
            // A line without a line end is still being written.
            let line = lines.find(|line| line.contains("accepting calls") && line.ends_with('\n'));
            assert!(line.is_some() || alive, "the process exited: {log}");
            line.map(Json::new)
        })
        .await;
        let address = |name: &str| line.at(&format!("fields.{name}")).text();
        let server = Self { proxy: address("proxy"), admin: address("admin"), process, config_dir };
        wait_ready(&server.admin).await;
        server
    }

    /// Kills the process and starts it again with the same configuration.
    pub async fn restart(mut self) -> Self {
        self.kill();
        let again = Self::start(self.config_dir.clone()).await;
        again.forbid_same_as(&self);
        again
    }

    /// Starts the process again and expects it to exit; returns its status and log.
    pub async fn try_restart(&self) -> (ExitStatus, String) {
        let mut process =
            Process::start(self.config_dir.command(&["serve", "--config"]), is_setup_link);
        (process.wait_exit().await, process.log())
    }

    /// A path in the configuration folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.config_dir.path(name)
    }

    /// The secret of the setup link that the gateway prints.
    pub async fn setup_link(&self) -> String {
        let line = self.wait_for_line(is_setup_link).await;
        let (before, secret) = line.split_once("/setup?token=").expect("a link");
        assert!(
            before.ends_with(&format!("http://{}", self.admin)),
            "a link to this gateway: {before}"
        );
        self.forbid_in_log(secret);
        secret.to_owned()
    }

    /// Creates the operator account with the secret of the setup link.
    pub async fn complete_setup(&self, link: &str) -> Response {
        let body = format!(
            r#"{{"token":"{link}","email":"op@example.com","name":"Op","password":"{PASSWORD}"}}"#
        );
        self.forbid_in_log(PASSWORD);
        Request::post("/api/auth/setup", body).send(&self.admin).await
    }

    /// Creates an API token with this session, and returns a tenant that uses it.
    pub async fn operator(&self, session: &str) -> Tenant {
        self.forbid_in_log(session);
        let mut tenant = Tenant {
            admin: self.admin.clone(),
            proxy: self.proxy.clone(),
            token: session.to_owned(),
            organization: String::new(),
            project: String::new(),
            key: String::new(),
        };
        let body = format!(r#"{{"name":"scripts","kind":"Platform","scopes":[{SCOPES}]}}"#);
        tenant.token = tenant.post("/api/auth/tokens", &body).await.at("token").text();
        self.forbid_in_log(&tenant.token);
        tenant
    }

    /// Sets up the operator, an organization with this balance, a project with this quota and an
    /// API key.
    pub async fn tenant(&self, funds: i128, quota: &str) -> Tenant {
        let session = self.complete_setup(&self.setup_link().await).await.json().await;
        let session = session.at("data.token").text();
        self.operator(&session).await.create_tenant(self, funds, quota).await
    }

    /// Returns the tenant with the listener addresses of this process.
    pub fn rebind(&self, tenant: Tenant) -> Tenant {
        Tenant { proxy: self.proxy.clone(), admin: self.admin.clone(), ..tenant }
    }
}

impl Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

pub const PASSWORD: &str = "correct horse battery staple";

const SCOPES: &str = r#""account.read","organization.read","organization.write","projects.read","projects.write","keys.read","keys.write","wallet.read","wallet.write","logs.read","platform.read","platform.write""#;

pub fn is_setup_link(line: &str) -> bool {
    line.contains("/setup?token=")
}
