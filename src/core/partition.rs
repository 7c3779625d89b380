//! Into how many parts a shared store is cut, and which one a tenant's things are in.
//!
//! What one commit writes is in one partition. The function is fixed: another one would look for
//! what is stored in the wrong place.

use super::ids::TenantId;

/// One part of the store, 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    /// How many there are.
    pub const COUNT: u8 = 64;

    /// Where a tenant's things are: FNV-1a of its name, modulo the count.
    #[must_use]
    pub fn of(tenant: &TenantId) -> Self {
        let hash = tenant.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(u8::try_from(hash % u64::from(Self::COUNT)).unwrap_or_default())
    }

    /// The partition of this number.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        (number < Self::COUNT).then_some(Self(number))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        serde_json::from_value(serde_json::Value::from(name)).unwrap()
    }

    #[test]
    fn a_tenant_stays_where_it_is() {
        let of = |name: &str| Partition::of(&tenant(name)).number();
        assert_eq!((of("default"), of("other"), of("acme")), (62, 21, 15));
    }

    #[test]
    fn tenants_are_spread() {
        let places: std::collections::BTreeSet<_> =
            (0..1000).map(|n| Partition::of(&tenant(&format!("tenant-{n}")))).collect();
        assert_eq!(places.len(), usize::from(Partition::COUNT));
    }
}
