//! How many events go to a sink in one request: as many as wait and as it takes.

/// What a sink takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events in one request.
    pub events: usize,
    /// Bytes of one event, as the sink counts them.
    pub event_bytes: usize,
    /// Bytes of all events of one request together, unless it is a single one.
    pub total_bytes: usize,
}

/// What to do with the events that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send so many of them in one request; none if there are none.
    Send(usize),
    /// The first of them can't be sent (R-EVT-10).
    TooLarge,
}

impl Limits {
    /// Decides by their sizes.
    pub fn next(&self, sizes: impl IntoIterator<Item = usize>) -> Next {
        let (mut count, mut total) = (0, 0_usize);
        for size in sizes {
            if size > self.event_bytes {
                // Whoever comes before it goes first.
                return match count {
                    0 => Next::TooLarge,
                    _ => Next::Send(count),
                };
            }
            total = total.saturating_add(size);
            if count == self.events || (count > 0 && total > self.total_bytes) {
                break;
            }
            count += 1;
        }
        Next::Send(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// R-EVT-10, R-EVT-14
        #[test]
        fn every_event_is_sent_or_dropped_in_order_and_no_request_is_too_large(
            sizes in prop::collection::vec(0_usize..400, 0..60), events in 1_usize..12, event_bytes in 1_usize..300,
            total_bytes in 1_usize..300,
        ) {
            let limits = Limits { events, event_bytes, total_bytes };
            let mut rest = &sizes[..];
            let mut dropped = 0;
            while !rest.is_empty() {
                match limits.next(rest.iter().copied()) {
                    Next::TooLarge => {
                        prop_assert!(rest[0] > event_bytes);
                        dropped += 1;
                        rest = &rest[1..];
                    }
                    Next::Send(count) => {
                        prop_assert!(count > 0 && count <= events);
                        let sum: usize = rest[..count].iter().sum();
                        prop_assert!(count == 1 || sum <= total_bytes);
                        prop_assert!(rest[..count].iter().all(|size| *size <= event_bytes));
                        // As many as possible.
                        if count < events && let Some(&next) = rest.get(count) {
                            prop_assert!(next > event_bytes || sum + next > total_bytes);
                        }
                        rest = &rest[count..];
                    }
                }
            }
            prop_assert_eq!(dropped, sizes.iter().filter(|size| **size > event_bytes).count());
        }
    }

    #[test]
    fn of_nothing_nothing_is_sent() {
        let limits = Limits {
            events: 10,
            event_bytes: 1,
            total_bytes: 1,
        };
        assert_eq!(limits.next([]), Next::Send(0));
    }
}
