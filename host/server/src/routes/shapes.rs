//! What the description of the API takes from the routes.

use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::embeddings::EmbeddingRequest;
pub(crate) use super::embeddings::Embeddings;
pub(crate) use super::models::List as ModelList;
use crate::error::ApiError;
use crate::params::Fields;

pub(crate) fn parse_chat(fields: Fields) -> Result<(), ApiError> {
    ChatRequest::take(fields).map(drop)
}

pub(crate) fn parse_completion(fields: Fields) -> Result<(), ApiError> {
    CompletionRequest::take(fields).map(drop)
}

pub(crate) fn parse_embedding(fields: Fields) -> Result<(), ApiError> {
    EmbeddingRequest::take(fields).map(drop)
}

pub(crate) fn parse_tokenize(fields: Fields) -> Result<(), ApiError> {
    super::tokenizer::Tokenize::take(fields).map(drop)
}

pub(crate) fn parse_detokenize(fields: Fields) -> Result<(), ApiError> {
    super::tokenizer::take_ids(fields).map(drop)
}
