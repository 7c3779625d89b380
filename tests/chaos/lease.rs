//! The API server whose Lease elects the leader, where a site has one.

use std::path::PathBuf;

use super::api_server::ApiServer;
use super::link::Link;

pub struct Lease {
    pub server: ApiServer,
    account: PathBuf,
}

impl Lease {
    pub fn start() -> Self {
        let server = ApiServer::start();
        let namespace = server.namespace("chaos");
        server.let_lead(&namespace, "callplane", &["callplane".to_owned()]);
        let account = server.service_account_dir(&namespace, "callplane");
        Self { server, account }
    }

    /// What a process is told, which reaches it over this link.
    pub fn config(&self, link: &Link) -> String {
        format!(
            "leadership: kubernetes\nkubernetes: {{server: \"127.0.0.1:{}\", account: \"{}\"}}\n",
            link.port,
            self.account.display()
        )
    }
}
