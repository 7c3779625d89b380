//! The way to the collector: OTLP over gRPC.

use std::path::{Path, PathBuf};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::queue::EXPORT;
use crate::core::ids::{Install, PodId};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);

/// A collector that answers nothing for so long is asked whether it is still there. Else one whose
/// machine is gone would be waited for as long as the kernel tries, a quarter of an hour. Only then:
/// servers of gRPC close connections on which they are asked for nothing.
const ASK: Duration = Duration::from_secs(1);

/// How long that may take. With [`ASK`] it is less than [`EXPORT`], so what was sent in vain is sent
/// again.
const ANSWER: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector: `http://host:port` or `https://host:port`.
    pub collector: String,
    /// Who may sign its certificate; nothing without TLS.
    pub tls: Option<Trust>,
    /// So many of a million commands are traced, where the client does not say.
    pub sample: u32,
}

/// Who may sign the collector's certificate.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Whom the system trusts.
    System,
    /// Whose certificates are in this file.
    File(PathBuf),
}

/// Who sends.
#[derive(Debug, Clone)]
pub struct Sender {
    /// This process.
    pub pod: PodId,
    /// Its installation.
    pub install: Install,
    /// What Kubernetes calls its pod, and the pod's namespace.
    pub kubernetes: (Option<String>, Option<String>),
}

/// What is named for the collector can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCollector {
    /// The file of certificates can't be read.
    #[error("traces.ca_file: {}: {why}", file.display())]
    Unread {
        /// The file.
        file: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// There is no certificate in it, or a broken one.
    #[error("traces.ca_file: {}: holds no certificate in PEM form, or a broken one", .0.display())]
    NoPem(PathBuf),
    /// Nobody can be trusted, or the address is none.
    #[error("traces.otlp: {0}")]
    Refused(String),
}

/// What sends spans. Connects when there is something to send, and again when the collector was away.
///
/// # Errors
/// [`BadCollector`]: it can never be reached so.
pub fn exporter(settings: &Settings, sender: &Sender) -> Result<SpanExporter, BadCollector> {
    let retry = RetryPolicy::recommended().with_max_retries(100);
    let builder = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(settings)?)
        .with_timeout(EXPORT)
        .with_retry_policy(retry);
    let built = builder.build();
    let mut exporter = built.map_err(|error| BadCollector::Refused(error.to_string()))?;
    exporter.set_resource(&resource(sender));
    Ok(exporter)
}

/// A connection that comes about when there is something to send, and anew when it broke.
fn channel(settings: &Settings) -> Result<Channel, BadCollector> {
    let refused = |error: tonic::transport::Error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        let told: Vec<String> = causes.map(ToString::to_string).collect();
        BadCollector::Refused(told.join(": "))
    };
    let endpoint = Endpoint::from_shared(settings.collector.clone()).map_err(refused)?;
    let endpoint = match &settings.tls {
        None => endpoint,
        Some(trust) => endpoint.tls_config(trusting(trust)?).map_err(refused)?,
    };
    let endpoint = endpoint
        .timeout(EXPORT)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(ASK)
        .keep_alive_timeout(ANSWER);
    Ok(endpoint.connect_lazy())
}

fn trusting(trust: &Trust) -> Result<ClientTlsConfig, BadCollector> {
    let file = match trust {
        Trust::System => return Ok(ClientTlsConfig::new().with_native_roots()),
        Trust::File(file) => file,
    };
    let pem = contents(file).map_err(|why| BadCollector::Unread { file: file.clone(), why })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if certificates.is_ok_and(|all| !all.is_empty()) {
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    } else {
        Err(BadCollector::NoPem(file.clone()))
    }
}

/// A pipe or a device may have no end.
fn contents(file: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(file)?.is_file() {
        std::fs::read(file)
    } else {
        Err(std::io::Error::other("it is no file"))
    }
}

/// What all spans of this process have in common, beside what `OTEL_RESOURCE_ATTRIBUTES` says.
fn resource(sender: &Sender) -> Resource {
    let (pod, namespace) = &sender.kubernetes;
    let named = |key, value: &Option<String>| value.clone().map(|value| KeyValue::new(key, value));
    let ours = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", sender.pod.as_str().to_owned()),
        KeyValue::new("callplane.install", sender.install.as_str().to_owned()),
    ];
    Resource::builder()
        .with_service_name("callplane")
        .with_attributes(ours)
        .with_attributes(named("k8s.pod.name", pod))
        .with_attributes(named("k8s.namespace.name", namespace))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(tls: Option<Trust>) -> Settings {
        let scheme = if tls.is_some() { "https" } else { "http" };
        Settings { collector: format!("{scheme}://127.0.0.1:4317"), tls, sample: 0 }
    }

    fn sender() -> Sender {
        let kubernetes = (Some("callplane-0".to_owned()), None);
        Sender { pod: PodId::new("p"), install: Install::default(), kubernetes }
    }

    #[test]
    fn who_sends_is_said_once() {
        let resource = resource(&sender());
        let said = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
        assert_eq!(said("service.name").as_deref(), Some("callplane"));
        assert_eq!(said("service.instance.id").as_deref(), Some("p"));
        assert_eq!(said("k8s.pod.name").as_deref(), Some("callplane-0"));
        assert_eq!(said("k8s.namespace.name"), None);
    }

    #[tokio::test]
    async fn a_file_of_certificates_that_can_not_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = rcgen::generate_simple_self_signed(["collector".to_owned()]).unwrap().cert.pem();
        assert!(exporter(&settings(None), &sender()).is_ok());
        assert!(exporter(&settings(Some(Trust::File(file("good", &good)))), &sender()).is_ok());
        for (file, why) in [
            (folder.path().join("gone"), "No such file"),
            (PathBuf::from("/dev/null"), "it is no file"),
            (file("text", "hush"), "no certificate in PEM form"),
            (file("cut", &good[..good.len() / 2]), "or a broken one"),
        ] {
            let refused = exporter(&settings(Some(Trust::File(file.clone()))), &sender());
            let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
            let begin = format!("traces.ca_file: {}: ", file.display());
            assert!(refused.starts_with(&begin) && refused.contains(why), "{refused}");
        }
    }
}
