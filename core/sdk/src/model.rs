use std::marker::PhantomData;

use rocmforge_abi::{MetaValue, ModelView, RStr, meta};
use rocmforge_program::DType;

use crate::error::{Error, Result};

/// A metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meta<'a> {
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// An array of this length; read its elements with [`Model::element`].
    Array(u64),
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions, outermost first: `[out, in]` for a matrix.
    pub dims: Vec<usize>,
}

/// A model file as an architecture sees it: metadata and the list of tensors.
///
/// Keys without a leading `general.` or `tokenizer.` are looked up under the file's architecture:
/// `attention.head_count` means `llama.attention.head_count` in a file of `llama`.
pub struct Model<'a> {
    view: ModelView,
    architecture: String,
    borrowed: PhantomData<&'a ()>,
}

impl<'a> Model<'a> {
    /// # Safety
    /// `view` must stay valid for `'a`.
    pub(crate) unsafe fn new(view: ModelView) -> Model<'a> {
        let mut model = Model { view, architecture: String::new(), borrowed: PhantomData };
        if let Some(Meta::Text(name)) = model.get("general.architecture") {
            model.architecture = name.to_owned();
        }
        model
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The full name of a key.
    pub fn key(&self, key: &str) -> String {
        if key.starts_with("general.") || key.starts_with("tokenizer.") {
            return key.to_owned();
        }
        format!("{}.{key}", self.architecture)
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<Meta<'a>> {
        meta_of((self.view.table.metadata())(self.view.ctx, RStr::from_str(&self.key(key))))
    }

    /// An element of the array under a key.
    pub fn element(&self, key: &str, index: u64) -> Option<Meta<'a>> {
        meta_of((self.view.table.metadata_element())(self.view.ctx, RStr::from_str(&self.key(key)), index))
    }

    /// A non-negative integer, if the key is there.
    ///
    /// # Errors
    /// The value is something else.
    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>> {
        self.get(key).map(|m| self.as_u32(key, m)).transpose()
    }

    /// A non-negative integer.
    ///
    /// # Errors
    /// The key is missing or its value is something else.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.optional_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive integer.
    ///
    /// # Errors
    /// As [`u32`](Model::u32), and 0.
    pub fn positive(&self, key: &str) -> Result<usize> {
        self.optional_positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive integer, if the key is there.
    ///
    /// # Errors
    /// The value is something else, or 0.
    pub fn optional_positive(&self, key: &str) -> Result<Option<usize>> {
        match self.optional_u32(key)? {
            Some(0) => Err(Error::invalid(format!("metadata '{}': expected at least 1, found 0", self.key(key)))),
            value => Ok(value.map(|v| v as usize)),
        }
    }

    /// A positive integer per layer: the key holds one for all, or an array with one for each.
    ///
    /// # Errors
    /// As [`optional_positive`](Model::optional_positive), and an array of another length.
    pub fn positive_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let Some(Meta::Array(len)) = self.get(key) else {
            return Ok(self.optional_positive(key)?.map(|v| vec![v; layers]));
        };
        if len != layers as u64 {
            return Err(self.unexpected(key, format!("{layers} elements, one per layer"), len));
        }
        let element = |i| match self.element(key, i).map(|m| self.as_u32(key, m)).transpose()? {
            Some(v) if v > 0 => Ok(v as usize),
            other => Err(self.unexpected(key, "integers of at least 1", format!("{other:?} for layer {i}"))),
        };
        (0..len).map(element).collect::<Result<Vec<_>>>().map(Some)
    }

    /// A float, if the key is there.
    ///
    /// # Errors
    /// The value is something else, or not finite.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::Float(v)) if v.is_finite() => Ok(Some(v as f32)),
            Some(Meta::Unsigned(v)) => Ok(Some(v as f32)),
            Some(other) => Err(self.unexpected(key, "a finite float", format!("{other:?}"))),
        }
    }

    /// A float.
    ///
    /// # Errors
    /// The key is missing, or its value is something else.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.optional_f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// A truth value, `false` if the key is not there.
    ///
    /// # Errors
    /// The value is something else.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Meta::Bool(v)) => Ok(v),
            Some(other) => Err(self.unexpected(key, "a truth value", format!("{other:?}"))),
        }
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// The value is something else.
    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::Text(v)) => Ok(Some(v)),
            Some(other) => Err(self.unexpected(key, "a text", format!("{other:?}"))),
        }
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let t = (self.view.table.tensor())(self.view.ctx, RStr::from_str(name));
        if t.name.is_empty() {
            return None;
        }
        let dims = t.dims.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
        Some(Tensor { name: t.name.to_string(), dtype: DType::from_id(t.dtype)?, dims })
    }

    fn as_u32(&self, key: &str, value: Meta<'_>) -> Result<u32> {
        let fits = match value {
            Meta::Unsigned(v) => u32::try_from(v).ok(),
            Meta::Signed(v) => u32::try_from(v).ok(),
            _ => None,
        };
        fits.ok_or_else(|| self.unexpected(key, "an integer from 0 to 4294967295", format!("{value:?}")))
    }

    fn missing(&self, key: &str) -> Error {
        Error::invalid(format!("metadata '{}' is missing from the file", self.key(key)))
    }

    fn unexpected(&self, key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
        Error::invalid(format!("metadata '{}': expected {expected}, found {found}", self.key(key)))
    }
}

fn meta_of<'a>(value: MetaValue<'static>) -> Option<Meta<'a>> {
    Some(match value.kind {
        meta::UNSIGNED => Meta::Unsigned(value.bits),
        meta::SIGNED => Meta::Signed(value.bits as i64),
        meta::FLOAT => Meta::Float(f64::from_bits(value.bits)),
        meta::BOOL => Meta::Bool(value.bits != 0),
        meta::STRING => Meta::Text(value.text.as_str()),
        meta::ARRAY => Meta::Array(value.bits),
        _ => return None,
    })
}
