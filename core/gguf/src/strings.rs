//! Many strings in little memory.

/// Strings one after another: a vocabulary and its merges are hundreds of thousands, most of a few bytes, and as many
/// allocations would take several times their size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Strings {
    /// None, with room for so many.
    pub fn with_capacity(count: usize) -> Strings {
        Strings { text: String::new(), ends: Vec::with_capacity(count) }
    }

    /// Appends one.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Number `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Strings {
        let mut all = Strings::default();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all
    }
}

impl<S: AsRef<str>> From<Vec<S>> for Strings {
    fn from(texts: Vec<S>) -> Strings {
        texts.into_iter().collect()
    }
}
