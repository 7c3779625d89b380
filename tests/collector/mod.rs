//! A collector of traces: OTLP over gRPC, and what it was sent.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, async_trait};

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A span as it came, with ids in hexadecimal.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty at the root.
    pub parent: String,
    pub name: String,
    /// Of OTLP: 1 internal, 2 server, 3 client, 5 consumer.
    pub kind: i32,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    pub links: Vec<String>,
    pub failed: bool,
    /// What is said of who sent it.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    pub fn sender(&self) -> &str {
        &self.resource["service.instance.id"]
    }

    pub fn says(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

/// A running collector. Dropped, it is gone.
pub struct Collector {
    pub address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    serving: JoinHandle<()>,
}

struct Service(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub async fn start() -> Self {
        Self::serve(Server::builder()).await
    }

    /// One that speaks TLS.
    pub async fn start_encrypted(authority: &Authority) -> Self {
        let identity = Identity::from_pem(&authority.certificate, &authority.key);
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(Server::builder().tls_config(tls).unwrap()).await
    }

    async fn serve(mut server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        let serving = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, spans, serving }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits until what came is enough.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let spans = self.spans();
            if enough(&spans) {
                return spans;
            }
            assert!(Instant::now() < deadline, "the collector waits in vain: {what}\n{spans:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut came = Vec::new();
        for of_resource in request.into_inner().resource_spans {
            let resource = said(of_resource.resource.unwrap().attributes);
            for of_scope in of_resource.scope_spans {
                for span in of_scope.spans {
                    came.push(Span {
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        name: span.name,
                        kind: span.kind,
                        start: span.start_time_unix_nano,
                        end: span.end_time_unix_nano,
                        attributes: said(span.attributes),
                        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                        failed: span.status.is_some_and(|s| s.code == StatusCode::Error as i32),
                        resource: resource.clone(),
                    });
                }
            }
        }
        self.0.lock().unwrap().extend(came);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn said(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(is_so) => is_so.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("nobody sends {other:?}"),
    };
    let pair = |pair: KeyValue| (pair.key, text(pair.value.unwrap().value.unwrap()));
    attributes.into_iter().map(pair).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An authority that was made for one test, and a collector's certificate for 127.0.0.1.
pub struct Authority {
    folder: TempDir,
    certificate: String,
    key: String,
}

impl Authority {
    pub fn made() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap());
        let authority = authority.unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap().pem();
        Self { folder, certificate, key: key.serialize_pem() }
    }

    /// The file of its own certificate.
    pub fn file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}
