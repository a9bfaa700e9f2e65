//! Pure: hot swap, provision or refuse, with every reason (D-HOT-5 to D-HOT-12).
