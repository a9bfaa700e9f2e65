//! The errors, their codes, hints and exit statuses.
