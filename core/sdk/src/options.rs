use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The plugin's own table in `plugins.toml`: `options = { .. }`, or `[plugins.options]`, of its entry.
#[derive(Clone, Debug, Default)]
pub struct Options {
    json: String,
}

impl Options {
    pub(crate) fn new(json: &str) -> Options {
        Options { json: json.to_owned() }
    }

    /// The table as a type of the plugin's. Derive `Deserialize` with `#[serde(default, deny_unknown_fields)]`, so
    /// that a misspelt key is an error that lists the known ones. The crate needs `serde` with the feature `derive`.
    ///
    /// ```no_run
    /// use rocmforge_sdk::{Options, Result};
    ///
    /// #[derive(Default, serde::Deserialize)]
    /// #[serde(default, deny_unknown_fields)]
    /// struct Settings {
    ///     long_factors: When,
    /// }
    ///
    /// #[derive(Default, serde::Deserialize)]
    /// #[serde(rename_all = "snake_case")]
    /// enum When {
    ///     #[default]
    ///     Longer,
    ///     Always,
    /// }
    ///
    /// fn settings(options: &Options) -> Result<Settings> {
    ///     options.parse() // of `options = { long_factors = "always" }`
    /// }
    /// ```
    ///
    /// # Errors
    /// An unknown key or a value of the wrong type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let json = if self.json.is_empty() { "{}" } else { &self.json };
        serde_json::from_str(json).map_err(|e| {
            // The place in the JSON is no place in the user's file.
            let message = e.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            Error::invalid(format!("plugin options: {message}"))
        })
    }

    /// For a plugin without options: a table with keys is an error that names them.
    ///
    /// # Errors
    /// There are keys.
    pub fn expect_none(&self) -> Result<()> {
        let table: serde_json::Map<String, serde_json::Value> = self.parse()?;
        match table.keys().next() {
            None => Ok(()),
            Some(_) => {
                let keys: Vec<_> = table.keys().map(String::as_str).collect();
                Err(Error::invalid(format!("plugin options: expected none, found {}", keys.join(", "))))
            }
        }
    }
}
