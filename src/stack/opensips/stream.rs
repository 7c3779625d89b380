//! JSON objects back to back on a stream, without any framing (`event_stream`).
//!
//! Several may come in one read, one may be split over many. Only braces, strings and escapes are
//! looked at; whether an object is JSON is found out by whoever reads it.

/// The longest object that is taken, in bytes; OpenSIPS writes about 500.
pub const LONGEST: usize = 256 * 1024;

/// Cuts a stream into objects.
#[derive(Debug, Default)]
pub struct Objects {
    /// The beginning of an object whose end has not come yet.
    begun: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

/// An object is longer than [`LONGEST`]: nothing after it can be made sense of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {LONGEST} bytes")]
pub struct TooLong;

impl Objects {
    /// Takes what was read; gives every object that is complete now to `take`, in order.
    /// Whatever stands between objects is skipped.
    ///
    /// # Errors
    /// [`TooLong`]: close the stream.
    pub fn push(&mut self, read: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), TooLong> {
        let mut from = 0;
        for (at, byte) in read.iter().enumerate() {
            if self.depth == 0 {
                if *byte == b'{' {
                    self.depth = 1;
                    from = at;
                }
                continue;
            }
            if !self.closes(*byte) {
                continue;
            }
            let rest = read.get(from..=at).unwrap_or_default();
            if self.begun.is_empty() {
                take(rest);
            } else {
                self.begun.extend_from_slice(rest);
                take(&self.begun);
                self.begun.clear();
            }
            from = at + 1;
        }
        if self.depth > 0 {
            self.begun.extend_from_slice(read.get(from..).unwrap_or_default());
            if self.begun.len() > LONGEST {
                return Err(TooLong);
            }
        }
        Ok(())
    }

    /// Whether this byte, inside an object, ends it.
    fn closes(&mut self, byte: u8) -> bool {
        if self.in_string {
            if self.escaped {
                self.escaped = false;
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'"' {
                self.in_string = false;
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' => self.depth += 1,
            b'}' => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut objects = Objects::default();
        let mut out = Vec::new();
        for piece in pieces {
            let take = |o: &[u8]| out.push(String::from_utf8_lossy(o).into_owned());
            objects.push(piece, take).unwrap();
        }
        out
    }

    #[test]
    fn objects_are_found_wherever_the_stream_is_cut() {
        let text = br#"{"a":{"b":"}{\"\\"}} {"c":[{}]}{}"#;
        let whole = cut(&[text]);
        assert_eq!(whole, [r#"{"a":{"b":"}{\"\\"}}"#, r#"{"c":[{}]}"#, "{}"]);
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(cut(&[one, two]), whole, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&bytes), whole);
    }

    #[test]
    fn what_stands_between_objects_is_skipped() {
        assert_eq!(cut(&[b"\r\n]]\"}{}x{", b"}"]), ["{}", "{}"]);
    }

    #[test]
    fn an_endless_object_is_given_up() {
        let mut objects = Objects::default();
        objects.push(b"{", |_| ()).unwrap();
        assert_eq!(objects.push(&vec![b' '; LONGEST], |_| ()), Err(TooLong));
    }
}
