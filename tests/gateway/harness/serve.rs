//! `meteor serve` with a file of the test's own, and its operator, made over HTTP as people do.

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

/// A folder with a configuration, and the variables that go with it.
#[derive(Clone)]
pub struct Place {
    folder: Arc<TempDir>,
    /// A program and its arguments, to which the gateway's own are added.
    launcher: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    /// Free ports and a folder of its own, and besides what `text` says.
    pub fn new(text: &str) -> Self {
        let own = Self { folder: temp_folder(), launcher: Vec::new(), variables: Vec::new() };
        let listen = "listen = \"127.0.0.1:0\"\n";
        let data = own.path("data");
        let data = data.display();
        // One worker, so that a call can meet the connection that the one before it has left.
        let all = format!(
            "[data]\nfolder = \"{data}\"\n[proxy]\n{listen}workers = 1\n[admin]\n{listen}\
             [log]\nlevel = \"debug\"\n{text}"
        );
        own.write("gateway.toml", &all);
        own
    }

    /// The same with a variable of the environment.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The same with another program in place of the binary under test.
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

    /// `meteor` with these words and then the file, run to its end.
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

/// An upstream of a file.
pub fn upstream(name: &str, url: &str) -> String {
    format!("[[upstreams]]\nname = \"{name}\"\nbase_url = \"{url}\"\n")
}

/// A model of a file, at the price of gpt-4o-mini; `served` says where.
pub fn model(id: &str, served: &str) -> String {
    format!(
        "[[models]]\nid = \"{id}\"\n{served}\nmax_output_tokens = 16384\n\
         prices = {{ inputTokens = \"0.15\", cachedInputTokens = \"0.075\", outputTokens = \"0.60\" }}\n"
    )
}

/// A running `meteor serve`.
pub struct Served {
    /// Host and port of the two listeners.
    pub proxy: String,
    pub admin: String,
    process: Process,
    config_dir: Place,
}

impl Served {
    pub async fn start(place: Place) -> Self {
        let mut process = Process::start(place.command(&["serve", "--config"]), is_setup_link);
        let told = eventually("the gateway says where it listens", async || {
            let alive = process.is_running();
            let log = process.log();
            let mut lines = log.split_inclusive('\n');
            // A line without its end is still being written.
            let line = lines.find(|line| line.contains("accepting calls") && line.ends_with('\n'));
            assert!(line.is_some() || alive, "it ended: {log}");
            line.map(Json::new)
        })
        .await;
        let address = |name: &str| told.at(&format!("fields.{name}")).text();
        let served =
            Self { proxy: address("proxy"), admin: address("admin"), process, config_dir: place };
        wait_ready(&served.admin).await;
        served
    }

    /// After its end: again, in the same place.
    pub async fn restart(mut self) -> Self {
        self.kill();
        let again = Self::start(self.config_dir.clone()).await;
        again.forbid_same_as(&self);
        again
    }

    /// After its end: a start that comes to nothing, and what it says.
    pub async fn try_restart(&self) -> (ExitStatus, String) {
        let mut process =
            Process::start(self.config_dir.command(&["serve", "--config"]), is_setup_link);
        (process.ended().await, process.log())
    }

    /// What lies there in its place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.config_dir.path(name)
    }

    /// The secret of the set-up link that it prints.
    pub async fn setup_link(&self) -> String {
        let line = self.wait_for_line(is_setup_link).await;
        let (before, secret) = line.split_once("/setup?token=").expect("a link");
        assert!(before.ends_with(&format!("http://{}", self.admin)), "a link to it: {before}");
        self.hides(secret);
        secret.to_owned()
    }

    /// Becomes the operator by the link.
    pub async fn complete_setup(&self, link: &str) -> Response {
        let body = format!(
            r#"{{"token":"{link}","email":"op@example.com","name":"Op","password":"{PASSWORD}"}}"#
        );
        self.hides(PASSWORD);
        Request::post("/api/auth/setup", body).send(&self.admin).await
    }

    /// A token for programs, made by whoever has this session.
    pub async fn operator(&self, session: &str) -> Tenant {
        self.hides(session);
        let mut own = Tenant {
            admin: self.admin.clone(),
            proxy: self.proxy.clone(),
            token: session.to_owned(),
            organization: String::new(),
            project: String::new(),
            key: String::new(),
        };
        let body = format!(r#"{{"name":"scripts","kind":"Platform","scopes":[{SCOPES}]}}"#);
        own.token = own.post("/api/auth/tokens", &body).await.at("token").text();
        self.hides(&own.token);
        own
    }

    /// From the link to an organization with money, a project with this quota, and a key.
    pub async fn tenant(&self, funds: i128, quota: &str) -> Tenant {
        let session = self.complete_setup(&self.setup_link().await).await.json().await;
        let session = session.at("data.token").text();
        self.operator(&session).await.create_tenant(self, funds, quota).await
    }

    /// The same tenant, here.
    pub fn rebind(&self, tenant: Tenant) -> Tenant {
        Tenant { proxy: self.proxy.clone(), admin: self.admin.clone(), ..tenant }
    }
}

impl Deref for Served {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Served {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

pub const PASSWORD: &str = "correct horse battery staple";

const SCOPES: &str = r#""account.read","organization.read","organization.write","projects.read","projects.write","keys.read","keys.write","wallet.read","wallet.write","logs.read","platform.read","platform.write""#;

pub fn is_setup_link(line: &str) -> bool {
    line.contains("/setup?token=")
}
