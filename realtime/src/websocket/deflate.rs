//! permessage-deflate (RFC 7692 §7.2) for one message at a time. The compressor and the decompressor of a thread are used
//! again and again, since making one costs more than a small message; they keep nothing between two messages.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Violation;

/// What ends the data of a sync flush, and is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The compressor's window, as a power of two in bytes. Clients may ask for one smaller than the largest (RFC 7692
/// §7.1.2.1), and one compressed frame is to serve them all. Messages are seldom longer than it; in a list of 14 KB it
/// costs 2 % over the largest.
pub(super) const WINDOW_BITS: u8 = 12;

/// How much room for output is added at least, in bytes.
const STEP: usize = 1024;

thread_local! {
    // Fast over small: one thread owns all connections, and messages are short.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new_with_window_bits(Compression::fast(), false, WINDOW_BITS));
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// The payload of a compressed message.
pub(super) fn deflate(payload: &[u8]) -> Vec<u8> {
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        let mut out = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let rest = &payload[compress.total_in() as usize..];
            compress
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .expect("a compressor that was just reset takes any input");
            // Room that is left over means that nothing waits inside any more.
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(out.len().max(STEP));
        }
        if out.ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
        if out.is_empty() {
            // An empty block without its tail (RFC 7692 §7.2.3.6).
            out.push(0);
        }
        out
    })
}

/// The message whose compressed payload this is, if it has at most `limit` bytes. Memory grows with what comes out, never
/// beyond the limit, and the work ends where the limit is passed: a small frame cannot unpack to gigabytes.
pub(super) fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, Violation> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut out = Vec::new();
        for mut input in [payload, &TAIL] {
            loop {
                if out.len() == out.capacity() {
                    if out.len() > limit {
                        return Err(Violation::TooBig);
                    }
                    // One byte more than allowed, so that the excess shows.
                    let more = out
                        .len()
                        .max(payload.len())
                        .max(STEP)
                        .min(limit + 1 - out.len());
                    out.reserve_exact(more);
                }
                let (read, written) = (decompress.total_in(), out.len());
                let status = decompress
                    .decompress_vec(input, &mut out, FlushDecompress::Sync)
                    .map_err(|_| Violation::CorruptDeflate)?;
                input = &input[(decompress.total_in() - read) as usize..];
                if status == Status::StreamEnd {
                    // A sender may end a block for good; what follows is a new stream (RFC 7692 §7.2.3.4).
                    decompress.reset(false);
                    if input.is_empty() {
                        break;
                    }
                    continue;
                }
                let stuck = decompress.total_in() == read && out.len() == written;
                if out.len() < out.capacity() && (input.is_empty() || stuck) {
                    break;
                }
            }
        }
        if out.len() > limit {
            Err(Violation::TooBig)
        } else {
            Ok(out)
        }
    })
}
