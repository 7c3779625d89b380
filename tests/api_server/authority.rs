//! The keys and certificates of a cluster that was made for one test.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

/// The authority of a cluster.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn made() -> Self {
        let mut params = named("cluster", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate (`ca.crt`), the API server's (`api`), the one of who may do everything
    /// (`admin`), and the keys that tokens are signed with (`accounts`).
    pub fn write(&self, folder: &Path, listens: Ipv4Addr) {
        std::fs::write(folder.join("ca.crt"), self.0.pem()).unwrap();
        let mut api = named("kube-apiserver", &[]);
        api.subject_alt_names = [listens, Ipv4Addr::new(10, 96, 0, 1)]
            .map(|address| SanType::IpAddress(IpAddr::V4(address)))
            .to_vec();
        self.sign(folder, "api", api);
        // The group that every cluster gives all rights (RBAC, "Default roles and role bindings").
        self.sign(folder, "admin", named("admin", &["system:masters"]));
        let accounts = KeyPair::generate().unwrap();
        std::fs::write(folder.join("accounts.key"), accounts.serialize_pem()).unwrap();
        std::fs::write(folder.join("accounts.pub"), accounts.public_key_pem()).unwrap();
    }

    /// Writes a certificate and its key.
    pub fn sign(&self, folder: &Path, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Of a user of this name, in these groups.
pub fn named(name: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params
}
