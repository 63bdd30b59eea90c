//! Addresses for sandboxes, out of one range.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use wharf_core::runtime::PodNetworkError;

/// Most addresses ever taken from a range, so that an IPv6 one stays countable.
const MOST: u128 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Addresses {
    range: IpNet,
    used: HashSet<u128>,
    /// Offset of the next to try: an address rests before it is given again.
    next: u128,
}

impl Addresses {
    pub(crate) fn new(range: IpNet) -> Self {
        Self { range: range.trunc(), used: HashSet::new(), next: 0 }
    }

    /// First offset that may be given and how many there are: all but network, gateway and (IPv4) broadcast. A range too
    /// small for those is given whole.
    fn usable(&self) -> (u128, u128) {
        let bits = u32::from(self.range.max_prefix_len() - self.range.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        if size <= 2 {
            return (0, size);
        }
        let broadcast = u128::from(matches!(self.range, IpNet::V4(_)));
        (2, (size - 2 - broadcast).min(MOST))
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.range.network() {
            // A V4 offset is below 2^32 by construction.
            IpAddr::V4(base) => IpAddr::V4(u32::from(base).wrapping_add(offset as u32).into()),
            IpAddr::V6(base) => IpAddr::V6(u128::from(base).wrapping_add(offset).into()),
        }
    }

    pub(crate) fn take(&mut self) -> Result<IpAddr, PodNetworkError> {
        let (first, count) = self.usable();
        if self.used.len() as u128 >= count {
            return Err(PodNetworkError::Exhausted { range: self.range.to_string(), used: self.used.len() });
        }
        // One is free, so this ends within one round.
        loop {
            let offset = first + self.next % count;
            self.next = (self.next + 1) % count;
            if self.used.insert(offset) {
                return Ok(self.at(offset));
            }
        }
    }

    pub(crate) fn release(&mut self, address: IpAddr) {
        let offset = match (address, self.range.network()) {
            (IpAddr::V4(a), IpAddr::V4(base)) => u128::from(u32::from(a).wrapping_sub(u32::from(base))),
            (IpAddr::V6(a), IpAddr::V6(base)) => u128::from(a).wrapping_sub(u128::from(base)),
            _ => return,
        };
        self.used.remove(&offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: &str) -> Addresses {
        Addresses::new(range.parse().unwrap())
    }

    #[test]
    fn special_addresses_are_left_out_and_the_range_ends() {
        let mut pool = addresses("10.1.2.128/29");
        let given: Vec<String> = (0..5).map(|_| pool.take().unwrap().to_string()).collect();
        assert_eq!(given, ["10.1.2.130", "10.1.2.131", "10.1.2.132", "10.1.2.133", "10.1.2.134"]);
        assert!(matches!(pool.take(), Err(PodNetworkError::Exhausted { used: 5, .. })));
        pool.release("10.1.2.132".parse().unwrap());
        assert_eq!(pool.take().unwrap().to_string(), "10.1.2.132");
    }

    #[test]
    fn a_released_address_rests() {
        let mut pool = addresses("10.0.0.0/24");
        let first = pool.take().unwrap();
        pool.release(first);
        assert_ne!(pool.take().unwrap(), first);
    }

    #[test]
    fn odd_ranges() {
        assert_eq!(addresses("10.0.0.7/32").take().unwrap().to_string(), "10.0.0.7");
        assert_eq!(addresses("fd00::/64").take().unwrap().to_string(), "fd00::2");
        assert_eq!(addresses("::/0").take().unwrap().to_string(), "::2");
        assert_eq!(addresses("0.0.0.0/0").take().unwrap().to_string(), "0.0.0.2");
    }
}
