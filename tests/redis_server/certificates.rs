//! Certificates of an authority that was made for one test.

use std::path::{Path, PathBuf};

use callplane::store::redis::{Identity, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority's certificate, a server's for 127.0.0.1 and a client's, in files.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub fn made() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = named("authority", Vec::new());
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        for (name, of) in [("server", "127.0.0.1"), ("client", "callplane")] {
            let key = KeyPair::generate().unwrap();
            let params = named(name, vec![of.to_owned()]);
            let certificate = params.signed_by(&key, &authority).unwrap();
            let path = |ending| folder.path().join(format!("{name}.{ending}"));
            std::fs::write(path("pem"), certificate.pem()).unwrap();
            std::fs::write(path("key"), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    /// How a client speaks to servers with these, showing its own.
    pub fn tls(&self) -> Tls {
        let (certificate, key) = (self.path("client.pem"), self.path("client.key"));
        Tls { ca: self.path("ca.pem"), identity: Some(Identity { certificate, key }) }
    }

    /// What tells a server to speak TLS on this port, to clients of the same authority only.
    pub fn arguments(&self, port: u16) -> Vec<String> {
        let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
        for (option, file) in [
            ("--tls-ca-cert-file", "ca.pem"),
            ("--tls-cert-file", "server.pem"),
            ("--tls-key-file", "server.key"),
        ] {
            arguments.extend([option.to_owned(), self.path(file).display().to_string()]);
        }
        arguments
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// OpenSSL takes a certificate whose subject is its issuer for one that signed itself.
fn named(subject: &str, of: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(of).unwrap();
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}
