//! IPv4 addresses as texts that are all equally long, and as the C library reads them.

use std::net::Ipv4Addr;

/// Each of the four numbers as four octal digits: `0012.0000.0000.0001` is 10.0.0.1.
pub(super) fn octal(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{a:04o}.{b:04o}.{c:04o}.{d:04o}")
}

/// Numbers that begin with 0 are octal.
pub(super) fn read(text: &str) -> Option<Ipv4Addr> {
    let mut numbers = text.split('.').map(|number| {
        let octal = number.len() > 1 && number.starts_with('0');
        u8::from_str_radix(number, if octal { 8 } else { 10 }).ok()
    });
    let mut next = || numbers.next().flatten();
    let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    numbers.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_the_c_library_reads_it() {
        for (text, wanted) in [("0177.0.0.01", "127.0.0.1"), ("10.0.0.8", "10.0.0.8")] {
            assert_eq!(read(text), Some(wanted.parse().unwrap()), "{text}");
        }
        for text in ["", "1.2.3", "1.2.3.4.5", "0400.0.0.1", "09.0.0.1", "256.0.0.1", "a.b.c.d"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for address in [[0, 0, 0, 0], [10, 0, 0, 12], [255, 8, 64, 9]].map(Ipv4Addr::from) {
            assert_eq!(read(&octal(address)), Some(address));
            assert_eq!(octal(address).len(), 19);
        }
    }
}
