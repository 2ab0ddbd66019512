//! Reads plugins.toml, loads and checks plugins, and wraps them in safe types.
