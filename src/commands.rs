//! One thin file per command: arguments → domain → what is printed.
