//! Pure: may a stack of this size be swapped (D-HOT-13 to D-HOT-18)?
