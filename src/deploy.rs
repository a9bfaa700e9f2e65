//! THE deploy: the steps of `docs/hotswap.md`, in order.
