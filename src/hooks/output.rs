//! What a hook prints: kept whole until it ends, so that hooks that run together do not mix their lines.

/// A hook that prints more than this has its further output counted, not kept.
const LIMIT: usize = 8 * 1024 * 1024;

/// The output of one hook so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    stdout: Vec<u8>,
    all: Vec<u8>,
    lost: u64,
}

impl Output {
    /// Adds a piece of standard output.
    pub fn stdout(&mut self, bytes: &[u8]) {
        let room = LIMIT - self.all.len();
        self.stdout
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.stderr(bytes);
    }

    /// Adds a piece of standard error.
    pub fn stderr(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LIMIT - self.all.len());
        self.all.extend_from_slice(&bytes[..kept]);
        self.lost += (bytes.len() - kept) as u64;
    }

    /// Standard output, both together, and the number of bytes that were not kept.
    pub fn finish(self) -> (Vec<u8>, Vec<u8>, u64) {
        (self.stdout, self.all, self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_counted_and_not_kept() {
        let mut output = Output::default();
        output.stdout(b"a");
        output.stderr(b"b");
        output.stdout(&vec![b'c'; LIMIT]);
        let (stdout, all, lost) = output.finish();
        assert_eq!((stdout.len(), all.len(), lost), (LIMIT - 1, LIMIT, 2));
        assert!(all.starts_with(b"abc") && stdout.starts_with(b"acc"));
    }
}
