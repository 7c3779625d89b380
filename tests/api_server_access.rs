//! What an API server allows the service account of a leader, whose Role names one Lease.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod api_server;

use std::sync::Arc;

use api_server::{ApiServer, is_here};
use hyper::{Request, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

/// A namespace with a service account whose Role names the Lease `leader`, asked by its token.
struct Leader {
    _server: Arc<ApiServer>,
    client: kube::Client,
    leases: String,
}

impl Leader {
    fn of(server: &Arc<ApiServer>) -> Self {
        let namespace = server.namespace("access");
        server.let_lead(&namespace, "leader", &["leader".to_owned()]);
        let pod = server.service_account_dir(&namespace, "leader");
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.root_cert_file = Some(pod.join("ca.crt"));
        config.auth_info.token_file = Some(pod.join("token").display().to_string());
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let client = kube::Client::try_from(config).unwrap();
        Self { _server: Arc::clone(server), client, leases }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.leases));
        let request = request.header("content-type", "application/json");
        let body = body.map(|body| serde_json::to_vec(body).unwrap()).unwrap_or_default();
        let answer = self.client.send(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect_bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn code(&self, method: &str, path: &str, body: Option<&Value>) -> u16 {
        self.ask(method, path, body).await.0.as_u16()
    }
}

fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": "one", "renewTime": "2026-01-01T00:00:00.000000Z"},
    })
}

#[tokio::test]
async fn a_role_that_names_a_lease_allows_that_one_and_no_other() {
    if !is_here("a_role_that_names_a_lease_allows_that_one_and_no_other") {
        return;
    }
    let leader = Leader::of(&ApiServer::shared());
    assert_eq!(leader.code("GET", "/leader", None).await, 404);
    assert_eq!(leader.code("POST", "", Some(&lease("leader"))).await, 403, "creation by POST");
    assert_eq!(leader.code("PUT", "/leader", Some(&lease("leader"))).await, 201, "creation by PUT");
    assert_eq!(leader.code("GET", "/leader", None).await, 200);
    assert_eq!(leader.code("GET", "/other", None).await, 403);
    assert_eq!(leader.code("PUT", "/other", Some(&lease("other"))).await, 403);
    assert_eq!(leader.code("GET", "", None).await, 403, "a list of all");
    assert_eq!(leader.code("GET", "?fieldSelector=metadata.name%3Dleader", None).await, 200);
    assert_eq!(leader.code("GET", "?fieldSelector=metadata.name%3Dother", None).await, 403);
    assert_eq!(leader.code("DELETE", "/leader", None).await, 403);
}

#[tokio::test]
async fn of_two_who_write_the_same_state_of_a_lease_one_is_refused() {
    if !is_here("of_two_who_write_the_same_state_of_a_lease_one_is_refused") {
        return;
    }
    let leader = Leader::of(&ApiServer::shared());
    let absent = lease("leader");
    let put = |body| leader.ask("PUT", "/leader", Some(body));
    let (one, other) = tokio::join!(put(&absent), put(&absent));
    let codes = [one.0.as_u16(), other.0.as_u16()];
    assert!([[201, 422], [422, 201]].contains(&codes), "both created it: {codes:?}");
    let (_, known) = leader.ask("GET", "/leader", None).await;
    let held_by = |name: &str| {
        let mut lease = known.clone();
        lease["spec"]["holderIdentity"] = json!(name);
        lease
    };
    let (one, other) = (held_by("one of them"), held_by("the other"));
    let (one, other) = tokio::join!(put(&one), put(&other));
    let codes = [one.0.as_u16(), other.0.as_u16()];
    assert!([[200, 409], [409, 200]].contains(&codes), "both took it: {codes:?}");
    let (_, mut born_again) = leader.ask("GET", "/leader", None).await;
    born_again["metadata"]["uid"] = json!("3f2a1f1e-0000-4000-8000-000000000000");
    assert_eq!(put(&born_again).await.0, 409, "of another life");
}

/// What an API server that stands still, is gone and comes again looks like.
#[tokio::test]
async fn an_api_server_comes_back_with_what_it_had_stored() {
    if !is_here("an_api_server_comes_back_with_what_it_had_stored") {
        return;
    }
    let server = Arc::new(ApiServer::start());
    let leader = Leader::of(&server);
    assert_eq!(leader.code("PUT", "/leader", Some(&lease("leader"))).await, 201);

    server.pause();
    let asked = leader.code("GET", "/leader", None);
    let answer = tokio::time::timeout(std::time::Duration::from_millis(500), asked).await;
    assert!(answer.is_err(), "it answers while it is paused: {answer:?}");
    server.go_on();
    assert_eq!(leader.code("GET", "/leader", None).await, 200);

    server.stop();
    let request = Request::get(format!("{}/leader", leader.leases));
    let refused = leader.client.send(request.body(Body::empty()).unwrap()).await;
    assert!(refused.is_err(), "it answers though it was stopped: {refused:?}");
    server.start_again();
    assert_eq!(leader.code("GET", "/leader", None).await, 200);
}
