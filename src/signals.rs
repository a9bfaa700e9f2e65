//! Pure tally of what the hosts say, and the wait for them (D-HOT-27 to D-HOT-43).
