//! What the hosts receive: blobs and manifest (D-PAY).
