//! The stable ABI between the host and its plugins.
