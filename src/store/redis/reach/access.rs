//! Passwords, keys and certificates: what is in the files that the settings name.
//!
//! They are read for each connection, so that one that was replaced is used without a restart. What
//! they hold is never shown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::settings::{Access, Identity, Tls};

/// What a connection needs.
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) tls: Option<TlsConnector>,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The certificates that may vouch for a server.
    Ca,
    /// Our certificate.
    Certificate,
    /// Its key.
    Key,
    /// The password.
    Password,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "certificates of the authorities",
            Self::Certificate => "client's certificate",
            Self::Key => "client's key",
            Self::Password => "password",
        })
    }
}

/// A file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the file of the {purpose}, {}: {why}", path.display())]
pub struct BadFile {
    /// What it is for.
    pub purpose: Purpose,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: Unusable,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It can't be read.
    #[error("{0}")]
    Unread(io::ErrorKind),
    /// It is a pipe or a device, whose end may never come.
    #[error("it is no file")]
    NoFile,
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is no text, as a password has to be.
    #[error("it is no UTF-8 text of one line")]
    NoText,
    /// It holds nothing of the kind.
    #[error("it holds none in PEM")]
    NoPem,
    /// What it holds is broken.
    #[error("what it holds can't be used")]
    Broken,
    /// The key is another certificate's.
    #[error("it belongs to another certificate")]
    OfAnother,
}

impl Access {
    /// Reads the files as they are now.
    pub(super) fn read(&self) -> Result<Credentials, BadFile> {
        Ok(Credentials {
            user: self.user.clone(),
            password: self.password.as_deref().map(password).transpose()?,
            tls: self.tls.as_ref().map(connector).transpose()?,
        })
    }
}

fn bad(purpose: Purpose, path: &Path, why: Unusable) -> BadFile {
    BadFile { purpose, path: path.to_owned(), why }
}

fn contents(purpose: Purpose, path: &Path) -> Result<Vec<u8>, BadFile> {
    let unread = |error: io::Error| bad(purpose, path, Unusable::Unread(error.kind()));
    if !std::fs::metadata(path).map_err(unread)?.is_file() {
        return Err(bad(purpose, path, Unusable::NoFile));
    }
    std::fs::read(path).map_err(unread)
}

fn password(path: &Path) -> Result<String, BadFile> {
    let refuse = |why| bad(Purpose::Password, path, why);
    let text = contents(Purpose::Password, path)?;
    let mut text = String::from_utf8(text).map_err(|_| refuse(Unusable::NoText))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(refuse(Unusable::Empty));
    }
    if text.contains(['\n', '\r']) {
        return Err(refuse(Unusable::NoText));
    }
    Ok(text)
}

/// Everything from ring, and nothing from what this process may have set for others.
fn connector(tls: &Tls) -> Result<TlsConnector, BadFile> {
    let refuse = |why| bad(Purpose::Ca, &tls.ca, why);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Purpose::Ca, &tls.ca)? {
        roots.add(certificate).map_err(|_| refuse(Unusable::Broken))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| refuse(Unusable::Broken))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some(Identity { certificate, key: path }) => {
            let chain = certificates(Purpose::Certificate, certificate)?;
            let refuse = |why| bad(Purpose::Key, path, why);
            let key = PrivateKeyDer::from_pem_slice(&contents(Purpose::Key, path)?);
            let key = key.map_err(|_| refuse(Unusable::NoPem))?;
            config.with_client_auth_cert(chain, key).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => refuse(Unusable::OfAnother),
                rustls::Error::InvalidCertificate(_) => {
                    bad(Purpose::Certificate, certificate, Unusable::Broken)
                }
                _ => refuse(Unusable::Broken),
            })?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(purpose: Purpose, path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let pem = contents(purpose, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|_| bad(purpose, path, Unusable::Broken))?;
    if all.is_empty() {
        return Err(bad(purpose, path, Unusable::NoPem));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &tempfile::TempDir, name: &str, what: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, what).unwrap();
        path
    }

    fn why(access: &Access) -> (Purpose, Unusable) {
        match access.read() {
            Ok(_) => panic!("{access:?} is taken"),
            Err(BadFile { purpose, why, .. }) => (purpose, why),
        }
    }

    #[test]
    fn a_password_is_a_line_without_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let read =
            |what: &[u8]| password(&written(&folder, "password", what)).map_err(|bad| bad.why);
        assert_eq!(read(b"hush").as_deref(), Ok("hush"));
        assert_eq!(read(b"hush\n").as_deref(), Ok("hush"));
        assert_eq!(read(b"hush\r\n").as_deref(), Ok("hush"));
        assert_eq!(read(b" hush \n").as_deref(), Ok(" hush "));
        assert_eq!(read(b""), Err(Unusable::Empty));
        assert_eq!(read(b"\n"), Err(Unusable::Empty));
        assert_eq!(read(b"a\nb\n"), Err(Unusable::NoText));
        assert_eq!(read(b"\xff"), Err(Unusable::NoText));
        let gone = password(&folder.path().join("gone")).map_err(|bad| bad.why);
        assert_eq!(gone, Err(Unusable::Unread(io::ErrorKind::NotFound)));
        let device = password(Path::new("/dev/null")).map_err(|bad| bad.why);
        assert_eq!(device, Err(Unusable::NoFile));
    }

    #[test]
    fn files_that_can_not_be_used_are_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let ours = rcgen::generate_simple_self_signed(["redis".to_owned()]).unwrap();
        let others = rcgen::generate_simple_self_signed(["redis".to_owned()]).unwrap();
        let (pem, key) = (ours.cert.pem(), ours.signing_key.serialize_pem());
        let ca = written(&folder, "ca", &pem);
        let certificate = written(&folder, "certificate", &pem);
        let its_key = written(&folder, "key", &key);
        let access = |ca: &Path, certificate: &Path, key: &Path| Access {
            tls: Some(Tls {
                ca: ca.to_owned(),
                identity: Some(Identity {
                    certificate: certificate.to_owned(),
                    key: key.to_owned(),
                }),
            }),
            ..Access::default()
        };
        assert!(access(&ca, &certificate, &its_key).read().is_ok());
        let key_of_another = written(&folder, "another", others.signing_key.serialize_pem());
        let text = written(&folder, "text", "hush");
        let cut = written(&folder, "cut", &pem[..pem.len() / 2]);
        let nonsense = written(
            &folder,
            "nonsense",
            "-----BEGIN CERTIFICATE-----\naHVzaA==\n-----END CERTIFICATE-----\n",
        );
        let gone = folder.path().join("gone");
        for (access, expected) in [
            (
                access(&gone, &certificate, &its_key),
                (Purpose::Ca, Unusable::Unread(io::ErrorKind::NotFound)),
            ),
            (access(&text, &certificate, &its_key), (Purpose::Ca, Unusable::NoPem)),
            (access(&cut, &certificate, &its_key), (Purpose::Ca, Unusable::Broken)),
            (access(&nonsense, &certificate, &its_key), (Purpose::Ca, Unusable::Broken)),
            (access(&ca, &its_key, &its_key), (Purpose::Certificate, Unusable::NoPem)),
            (access(&ca, &nonsense, &its_key), (Purpose::Certificate, Unusable::Broken)),
            (access(&ca, &certificate, &certificate), (Purpose::Key, Unusable::NoPem)),
            (access(&ca, &certificate, &key_of_another), (Purpose::Key, Unusable::OfAnother)),
        ] {
            assert_eq!(why(&access), expected);
            let shown = access.read().map(|_| ()).unwrap_err().to_string();
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}
