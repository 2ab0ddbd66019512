//! How many connections each address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections by address, so that one client cannot take every place.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limit: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A counted connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    addresses: Addresses,
    key: IpAddr,
}

impl Addresses {
    pub(crate) fn new(limit: usize) -> Addresses {
        Addresses { limit, counts: Arc::default() }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection; `None` if its address has as many as it may.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Counted> {
        let key = client(address);
        let mut counts = self.counts();
        let count = counts.entry(key).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Counted { addresses: self.clone(), key })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// What stands for a client: of IPv6 the first 64 bits, because whoever has one address there has all that share them.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_only_so_many_connections() {
        let addresses = Addresses::new(2);
        let admit = |address: &str| addresses.admit(address.parse().expect("an address"));
        let (first, _second) = (admit("192.0.2.1"), admit("::ffff:192.0.2.1"));
        assert!(first.is_some() && admit("192.0.2.1").is_none());
        let _other = admit("192.0.2.2").expect("another address");
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        let _held = [admit("2001:db8::1").expect("room"), admit("2001:db8::2").expect("room")];
        assert!(admit("2001:db8::3").is_none() && admit("2001:db8:0:1::3").is_some());
        // Nothing is kept of those who are gone.
        assert_eq!(addresses.counts().len(), 3);
    }
}
