//! What goes on around every route.

pub(crate) mod access;
pub(crate) mod addresses;
pub(crate) mod body;
pub(crate) mod keys;
pub(crate) mod observe;
pub(crate) mod patience;
pub(crate) mod refusal;
pub(crate) mod shape;
pub(crate) mod tls;
